"""X-LoRA: a small model that weighs several adapters for each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_svd_adapters.models.routing.adapter_router import tensors
from keras_svd_adapters.models.routing.token_features import BackboneFeatures, TokenFeatures
from keras_svd_adapters.models.routing.token_router import TokenRouter


class XLoRA(TokenRouter):
    """Model around a model with adapters: a classifier weighs the adapters for each token.

    It computes twice. The first pass has no adapter, and gives the features of each token. The
    classifier turns these into weights, which sum to 1. In the second pass, each adapted layer adds
    up the changes of the adapters, each times the weight of the token. Only the classifier trains,
    with `compile` and `fit` as usual; the model and its adapters are frozen. Any methods may be
    mixed. Save `x_lora.classifier`, and the adapters as they are.

    `generate` gives each new token its weights: the pass without adapters has a cache of its own.
    The text is that of a call for each token; the cache and the time per token double.

    Args:
        model: A model with adapters, such as a KerasHub `CausalLM`.
        names: Names of the adapters.
        features: Model of the same inputs that returns `(samples, tokens, width)`.
            `None` is the backbone of the model.
        classifier: Layer from features to a logit for each adapter. `None` is a
            `Dense` layer.
        temperature: Float, by which the logits are divided.
        top_k: Integer, the number of adapters of each token; `None` is all.

    Raises:
        ValueError: If there is no adapter of a name, or an argument is wrong. At
            a call, if an adapted layer does not see a row for each token.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> inputs = keras.Input((6, 8))
    >>> hidden = keras.layers.Dense(8, activation="relu")(inputs)
    >>> model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    >>> for name in ("a", "b"):
    ...     _ = ksa.enable(model, ksa.LoRA(rank=2), name=name)
    >>> mixed = ksa.XLoRA(model, ["a", "b"], features=keras.Model(inputs, hidden))
    >>> mixed.predict(keras.ops.ones((1, 6, 8)), verbose=0).shape
    (1, 6, 2)

    Reference:
        - [Buehler & Buehler, 2024](https://arxiv.org/abs/2402.07148)
    """

    def __init__(
        self,
        model: keras.Model,
        names: Sequence[str],
        features: keras.Model | None = None,
        classifier: keras.layers.Layer | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
    ):
        backbone = getattr(model, "backbone", None)
        of_task = backbone is not None and (features is None or features is backbone)
        source = BackboneFeatures(model) if of_task else TokenFeatures(features)
        super().__init__(model, names, source, temperature, top_k, "x_lora")
        self.features = source.model
        self.classifier = classifier or keras.layers.Dense(len(self.names), name="classifier")
        if not self.classifier.built:
            self.classifier.build(source.shape)
        self.built = True

    @property
    def own_trainable(self) -> list[keras.Variable]:
        return self.classifier.trainable_weights

    def values(self) -> Any:
        layer = self.classifier
        return [tensors(layer.trainable_variables), tensors(layer.non_trainable_variables)]

    def logits(self, features: Any, inputs: Any) -> Any:
        return self.classifier(features)

    def next_logits(self, features: Any, values: Any, state: Any, index: Any) -> tuple[Any, Any]:
        return self.classifier.stateless_call(*values, features)[0], ()
