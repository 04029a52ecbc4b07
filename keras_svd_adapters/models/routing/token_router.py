"""A router that gives each token weights of its own, the same for all layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.adapters.mode import in_mode, with_own_kernels
from keras_svd_adapters.adapters.weighted.sample_weights import SampleWeights, WeightedPerToken
from keras_svd_adapters.models.routing.adapter_router import AdapterRouter
from keras_svd_adapters.models.routing.token_features import TokenFeatures
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.weights_request import is_weight

PARTS = ("model", "features", "router")  # keys of the cache of a routed generation


class TokenRouter(AdapterRouter):
    """Base class of routers from the features of each token to logits of the adapters.

    Args:
        model: A model with adapters.
        names: Names of the adapters.
        source: Where the features come from.
        temperature: Float, by which the logits are divided.
        top_k: Integer, the number of adapters of each token; `None` is all.
        name: Name of this model.
    """

    def __init__(
        self,
        model: keras.Model,
        names: Sequence[str],
        source: TokenFeatures,
        temperature: float,
        top_k: int | None,
        name: str,
    ):
        check_choice(len(names), temperature, top_k)
        super().__init__(model, names, name)
        self.source = source
        self.temperature, self.top_k = temperature, top_k

    def logits(self, features: Any, inputs: Any) -> Any:
        """Return the logit of each adapter for each token of whole sequences."""
        raise NotImplementedError

    def next_logits(self, features: Any, values: Any, state: Any, index: Any) -> tuple[Any, Any]:
        """Return the logits of tokens from a position on, and the state for later ones.

        Args:
            features: `(samples, tokens, width)`.
            values: The result of `values()`.
            state: The state after the earlier tokens; `None` at first.
            index: Position of the first of these tokens.
        """
        raise NotImplementedError

    def token_weights(self, inputs: Any) -> Any:
        """Return the weight of each adapter, of shape `(samples, tokens, adapters)`."""
        with self._without_adapters():
            features = ops.stop_gradient(self.source.features(inputs))
        return self._weights(self.logits(features, inputs))

    def call(self, inputs: Any, training: bool = False) -> Any:
        with in_mode(self._with_weights(self.token_weights(inputs))):
            return self.model(inputs, training=training)

    def check_generation(self) -> None:
        self.source.check_cached()

    def call_with_cache(
        self,
        plain: Callable[..., Any],
        values: Any,
        token_ids: Any,
        cache: Any,
        cache_update_index: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Weigh the adapters of some tokens, then compute with them; as `AdapterRouter` says.

        The cache has three parts: that of the model, that of the features and a state.
        """
        index = cache_update_index
        if not (isinstance(cache, dict) and cache.keys() == set(PARTS)):
            cache = dict.fromkeys(PARTS) | {"model": cache, "features": self.source.first(cache)}
        with self._without_adapters():
            features, of_features = self.source.next_features(
                plain, token_ids, cache["features"], index, *args, **kwargs
            )
        logits, state = self.next_logits(features, values, cache["router"], index)
        with in_mode(self._with_weights(self._weights(logits))):
            outputs, hidden, of_model = plain(token_ids, cache["model"], index, *args, **kwargs)
        return outputs, hidden, dict(zip(PARTS, (of_model, of_features, state), strict=True))

    def _weights(self, logits: Any) -> Any:
        logits = ops.cast(logits, "float32") / self.temperature
        if self.top_k is not None:
            least = ops.top_k(logits, self.top_k)[0][..., -1:]
            logits = ops.where(ops.less(logits, least), -1e9, logits)
        return ops.softmax(logits, axis=-1)

    def _with_weights(self, weights: Any) -> Any:
        ids = SampleWeights(self.names, weights)
        return self.mixed(self.own_kernels(), lambda _, names: WeightedPerToken(names), ids)

    def _without_adapters(self) -> Any:
        return with_own_kernels(frozenset(id(site.layer) for site in adapted_sites(self.model)))


def check_choice(adapters: int, temperature: Any, top_k: Any) -> None:
    """Raise an error if a temperature or a number of chosen adapters is wrong."""
    if not is_weight(temperature) or temperature <= 0:
        raise ValueError(
            f"`temperature` must be a positive number. Received: temperature={temperature!r}"
        )
    if top_k is not None and not (type(top_k) is int and 1 <= top_k <= adapters):
        raise ValueError(
            f"`top_k` must be an integer from 1 to {adapters}. Received: top_k={top_k!r}"
        )
