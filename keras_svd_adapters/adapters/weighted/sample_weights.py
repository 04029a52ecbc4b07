"""Adapters of a layer with other weights for each sample, or each token, of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.per_sample import AdapterIds, Compute, plain, samples_of
from keras_svd_adapters.adapters.refusals import refuse_per_sample
from keras_svd_adapters.adapters.weighted.weighted_sum import weighted_sum


@dataclass(frozen=True, eq=False)
class SampleWeights(AdapterIds):
    """The weights of adapters for each sample or token of a batch: the last axis of `ids`."""

    chooses: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class WeightedPerSample:
    """Computation of a layer if each sample of a batch has its own weights.

    Args:
        names: Names of the layer's adapters that have weights.
    """

    names: tuple[str, ...]

    maps: ClassVar[bool] = False

    def outputs(
        self, inputs: Any, compute: Compute, adapters: Mapping[str, Adapter], chosen: AdapterIds
    ) -> Any:
        """Compute the outputs of the layer, as `Mixture` says."""
        self.check(inputs, chosen)
        if chosen.probe_rows:
            return compute(inputs, plain)
        own = {name: adapters[name] for name in self.names}
        weights = {
            name: ops.reshape(chosen.ids[..., chosen.names.index(name)], (-1,)) for name in own
        }
        return compute(inputs, partial(weighted_sum, adapters=own, weights=weights, training=False))

    def check(self, inputs: Any, chosen: AdapterIds) -> None:
        """Raise an error if the inputs do not have rows for each sample."""
        samples_of(inputs, chosen)


@dataclass(frozen=True, eq=False)
class WeightedPerToken(WeightedPerSample):
    """Computation of a layer if each token has its own weights; as `WeightedPerSample`."""

    def check(self, inputs: Any, chosen: AdapterIds) -> None:
        inputs = inputs[0] if isinstance(inputs, list) else inputs
        given, tokens = inputs.shape[1:2], chosen.ids.shape[1:2]
        if not given or (None not in (*given, *tokens) and tuple(given) != tuple(tokens)):
            refuse_per_sample(
                f"inputs of shape {tuple(inputs.shape)} for weights of {tokens[0]} tokens"
            )
