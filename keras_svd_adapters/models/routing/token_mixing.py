"""Token-level mixing: the nearest data weighs several adapters for each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.mode import with_own_kernels
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.models.batches import array_batches
from keras_svd_adapters.models.named_adapters import require_adapter
from keras_svd_adapters.models.routing.adapter_router import check_names
from keras_svd_adapters.models.routing.prototypes import Prototypes
from keras_svd_adapters.models.routing.token_features import (
    BackboneFeatures,
    EmbeddingFeatures,
    TokenFeatures,
)
from keras_svd_adapters.models.routing.token_router import TokenRouter, check_choice
from keras_svd_adapters.runtime.gradients import without_gradients
from keras_svd_adapters.runtime.host_values import to_float64

MASK = "padding_mask"


class TokenMixing(TokenRouter):
    """Model around a model with adapters: the data of each adapter weighs them for each token.

    The context of a token is the mean embedding of the sequence up to it. Its cosine similarities
    to the mean contexts of each adapter's data, divided by a temperature, give the weights by a
    softmax. A token sees no later ones, and nothing trains. Any methods may be mixed.

    `generate` gives each new token its weights, and caches the sums of the embeddings. The cache of
    the model keeps what earlier tokens computed with their own weights.

    Args:
        model: A model with adapters, such as a KerasHub `CausalLM`.
        data: Dictionary from names of adapters to data of each, inputs of the model, such as arrays
            of `(samples, tokens)`. Or `Prototypes` of contexts, such as `prototypes` of another
            router; an adapter with several centers counts with the nearest one.
        features: Model of the same inputs that returns `(samples, tokens, width)`. `None` is
            the token embedding of the task, and its `backbone` takes a pass without adapters.
        temperature: Float, by which the similarities are divided.
        top_k: Integer, the number of adapters of each token; `None` is all.
        every: Integer, the number of tokens with the same weights. With 2, every other token
            has new ones.

    Raises:
        ValueError: If there is no adapter of a name, or an argument is wrong. At
            a call, if an adapted layer does not see a row for each token.

    Example:

    >>> import keras, keras_svd_adapters as ksa, numpy as np
    >>> inputs = keras.Input((6,), dtype="int32")
    >>> embedded = keras.layers.Embedding(10, 8)(inputs)
    >>> model = keras.Model(inputs, keras.layers.Dense(2)(embedded))
    >>> for name in ("a", "b"):
    ...     _ = ksa.enable(model, ksa.LoRA(rank=2), name=name, targets="*dense*")
    >>> data = {"a": np.array([[1, 2, 1, 2, 1, 2]]), "b": np.array([[7, 8, 8, 7, 7, 9]])}
    >>> mixed = ksa.TokenMixing(model, data, features=keras.Model(inputs, embedded))
    >>> mixed.predict(data["a"], verbose=0).shape
    (1, 6, 2)

    Reference:
        - [Belofsky, 2023](https://arxiv.org/abs/2311.10847)
    """

    def __init__(
        self,
        model: keras.Model,
        data: Mapping[str, Any] | Prototypes,
        features: keras.Model | None = None,
        temperature: float = 0.1,
        top_k: int | None = None,
        every: int = 1,
    ):
        check_positive_integers(every=every)
        source = _source(model, features)
        if not isinstance(data, Prototypes):
            check_names(model, data, "token_mixing")
            check_choice(len(data), temperature, top_k)
            data = Prototypes.fit(_contexts(model, source, data), clusters=1)
        centers = data.centers
        super().__init__(model, list(centers), source, temperature, top_k, "token_mixing")
        width = next(iter(centers.values())).shape[1]
        if source.shape[-1] not in (None, width):
            raise ValueError(
                "The centers come from other features than those of `features`. Received: widths "
                f"{width} and {source.shape[-1]}"
            )
        self.features, self.prototypes, self.every = source.model, data, every
        unit = {
            k: v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
            for k, v in centers.items()
        }
        self.centers = tuple(unit[name].T.astype("float32") for name in self.names)
        self.built = True

    def logits(self, features: Any, inputs: Any) -> Any:
        sums = ops.cumsum(_masked(features, inputs), axis=1)
        return self._similarities(self._at(sums, ops.arange(ops.shape(sums)[1])))

    def next_logits(self, features: Any, values: Any, state: Any, index: Any) -> tuple[Any, Any]:
        features = ops.cast(features, "float32")
        state = ops.zeros_like(features) if state is None else state
        index = ops.cast(index, "int32")
        before = ops.take(state, ops.maximum(index - 1, 0), axis=1)[:, None]
        before = ops.where(ops.greater(index, 0), before, 0.0)
        state = ops.slice_update(state, (0, index, 0), before + ops.cumsum(features, axis=1))
        return self._similarities(
            self._at(state, index + ops.arange(ops.shape(features)[1]))
        ), state

    def _at(self, sums: Any, places: Any) -> Any:
        """Return the sums of the contexts that tokens at these places have their weights from."""
        return ops.take(sums, places - places % self.every, axis=1)

    def _similarities(self, sums: Any) -> Any:
        """Return cosines, which are the same for a sum and for a mean."""
        unit = ops.normalize(sums, axis=-1)
        return ops.stack([ops.max(ops.matmul(unit, c), axis=-1) for c in self.centers], axis=-1)


def _source(model: Any, features: Any) -> TokenFeatures:
    backbone = getattr(model, "backbone", None)
    if features is None and hasattr(backbone, "token_embedding"):
        return EmbeddingFeatures(model)
    if backbone is not None and features is backbone:
        return BackboneFeatures(model)
    return TokenFeatures(features)


def _contexts(
    model: keras.Model, source: TokenFeatures, data: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the mean features of each sample of each adapter's data, without adapters."""
    found = {}
    layers = frozenset(id(site.layer) for site in require_adapter(model))
    for name, inputs in data.items():
        rows = []
        for batch, count in array_batches(inputs, 32)[0]:
            with with_own_kernels(layers):
                features = without_gradients(lambda: source.features(batch))  # noqa: B023
            total = to_float64(ops.sum(_masked(features, batch), axis=1))
            rows.append((total / _lengths(batch, features)[:, None])[:count])
        found[name] = np.concatenate(rows)
    return found


def _masked(features: Any, inputs: Any) -> Any:
    """Return features in float32, with zeros for padding."""
    features = ops.cast(features, "float32")
    if isinstance(inputs, Mapping) and MASK in inputs:
        return features * ops.cast(inputs[MASK], "float32")[..., None]
    return features


def _lengths(inputs: Any, features: Any) -> np.ndarray:
    if isinstance(inputs, Mapping) and MASK in inputs:
        lengths: np.ndarray = np.maximum(to_float64(inputs[MASK]).sum(axis=1), 1.0)
        return lengths
    return np.full(features.shape[0], features.shape[1], "float64")
