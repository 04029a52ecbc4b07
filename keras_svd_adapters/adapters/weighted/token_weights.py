"""Adapters of a layer with other weights for each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.per_sample import AdapterIds, Compute
from keras_svd_adapters.adapters.refusals import refuse_per_sample
from keras_svd_adapters.adapters.weighted.weighted_sum import weighted_sum


@dataclass(frozen=True, eq=False)
class TokenWeights(AdapterIds):
    """The weights of adapters for each token; `ids` is `(samples, tokens, adapters)`."""

    chooses: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class WeightedPerToken:
    """Computation of a layer if each token has its own weights.

    Args:
        names: Names of the layer's adapters that have weights.
    """

    names: tuple[str, ...]

    maps: ClassVar[bool] = False

    def outputs(
        self, inputs: Any, compute: Compute, adapters: Mapping[str, Adapter], chosen: AdapterIds
    ) -> Any:
        """Compute the outputs of the layer, as `Mixture` says."""
        given, tokens = inputs.shape[1:2], chosen.ids.shape[1:2]
        if not given or (None not in (*given, *tokens) and tuple(given) != tuple(tokens)):
            refuse_per_sample(
                f"inputs of shape {tuple(inputs.shape)} for weights of {tokens[0]} tokens"
            )
        own = {name: adapters[name] for name in self.names}
        weights = {
            name: ops.reshape(chosen.ids[..., chosen.names.index(name)], (-1,)) for name in own
        }
        return compute(inputs, partial(weighted_sum, adapters=own, weights=weights, training=False))
