"""X-LoRA: a small model that weighs several adapters for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.mode import current_mode, in_mode, with_own_kernels
from keras_svd_adapters.adapters.weighted.sample_weights import SampleWeights, WeightedPerToken
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.weights_request import is_weight


class XLoRA(keras.Model):
    """Model around a model with adapters: a classifier weighs the adapters for each token.

    It computes twice. The first pass has no adapter, and gives the features of each token. The
    classifier turns these into weights, which sum to 1. In the second pass, each adapted layer adds
    up the changes of the adapters, each times the weight of the token. Only the classifier trains,
    with `compile` and `fit` as usual; the model and its adapters are frozen. Any methods may be
    mixed. Save `x_lora.classifier`, and the adapters as they are.

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

    is_internal = True

    def __init__(
        self,
        model: keras.Model,
        names: Sequence[str],
        features: keras.Model | None = None,
        classifier: keras.layers.Layer | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
    ):
        listed = [] if isinstance(names, str) else list(names)
        features = getattr(model, "backbone", None) if features is None else features
        _check(listed, features, temperature, top_k)
        for name in listed:
            require_adapter(model, name)
        require_values(model, f"XLoRA({listed})")
        super().__init__(name="x_lora", dtype=model.dtype_policy)
        assert features is not None
        self.model, self.features, self.names = model, features, tuple(listed)
        self.temperature, self.top_k = temperature, top_k
        self.classifier = classifier or keras.layers.Dense(len(listed), name="classifier")
        if not self.classifier.built:
            self.classifier.build(features.output_shape)
        self.built = True

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """The weights of the classifier."""
        return self.classifier.trainable_weights

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The weights of the classifier."""
        return self.classifier.trainable_weights

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        trained = set(map(id, self.trainable_variables))
        return [variable for variable in self.variables if id(variable) not in trained]

    def token_weights(self, inputs: Any) -> Any:
        """Return the weight of each adapter, of shape `(samples, tokens, adapters)`."""
        layers = frozenset(id(site.layer) for site in adapted_sites(self.model))
        with with_own_kernels(layers):
            features = ops.stop_gradient(self.features(inputs))
        logits = ops.cast(self.classifier(features), "float32") / self.temperature
        if self.top_k is not None:
            least = ops.top_k(logits, self.top_k)[0][..., -1:]
            logits = ops.where(ops.less(logits, least), -1e9, logits)
        return ops.softmax(logits, axis=-1)

    def call(self, inputs: Any, training: bool = False) -> Any:
        weights = self.token_weights(inputs)
        own = {
            id(site.layer): tuple(n for n in adapters_of(site.layer) if n in self.names)
            for site in adapted_sites(self.model)
        }
        mixtures = {layer: WeightedPerToken(names) for layer, names in own.items() if names}
        mode = replace(
            current_mode(),
            base=frozenset(own.keys() - mixtures.keys()),
            per_sample=mixtures,
            ids=SampleWeights(self.names, weights),
        )
        with in_mode(mode):
            return self.model(inputs, training=training)


def _check(names: list[Any], features: Any, temperature: Any, top_k: Any) -> None:
    if len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`names` has two adapters or more. Received: names={names!r}")
    if len(getattr(features, "output_shape", None) or ()) != 3:
        raise ValueError(
            "`features` is a model that returns (samples, tokens, width), such as "
            f"`keras.Model(model.input, hidden)`. Received: features={features!r}"
        )
    if not is_weight(temperature) or temperature <= 0:
        raise ValueError(
            f"`temperature` must be a positive number. Received: temperature={temperature!r}"
        )
    if top_k is not None and not (type(top_k) is int and 1 <= top_k <= len(names)):
        raise ValueError(
            f"`top_k` must be an integer from 1 to {len(names)}. Received: top_k={top_k!r}"
        )
