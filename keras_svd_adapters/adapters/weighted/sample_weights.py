"""Adapters of a layer with other weights for each sample of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.per_sample import AdapterIds, Compute, plain, samples_of
from keras_svd_adapters.adapters.weighted.weighted_sum import weighted_sum


@dataclass(frozen=True, eq=False)
class SampleWeights(AdapterIds):
    """The weights of adapters for each sample of a batch; `ids` has a column for each adapter."""

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
        samples_of(inputs, chosen)
        if chosen.probe_rows:
            return compute(inputs, plain)
        own = {name: adapters[name] for name in self.names}
        weights = {name: chosen.ids[:, chosen.names.index(name)] for name in own}
        return compute(inputs, partial(weighted_sum, adapters=own, weights=weights, training=False))
