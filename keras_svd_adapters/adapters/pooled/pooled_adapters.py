"""Computation of a layer whose samples have adapters in the slots of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.per_sample import (
    AdapterIds,
    Compute,
    adapt_samples,
    plain,
    samples_of,
)
from keras_svd_adapters.adapters.pooled.slot_arrays import slots_of
from keras_svd_adapters.adapters.weighted.weighted_sum import weighted_sum


@dataclass(frozen=True)
class PooledKernel:
    """The pool's part of one kernel.

    Args:
        name: Name of the pool's adapter, which has what all adapters of the pool share.
        common: Names of the coefficients that are equal in all of them.
    """

    name: str
    common: frozenset[str]

    def read(self, adapter: Adapter, slots: Any) -> dict[str, Any]:
        """Return the coefficients that differ, for slots as `SlotArrays.read` takes them."""
        there = slots_of(adapter)
        assert there is not None
        return there.read(slots)

    def read_common(self, adapter: Adapter) -> dict[str, Any]:
        """Return the coefficients that all adapters share."""
        if not self.common:
            return {}
        return {k: v for k, v in adapter.prepared_arrays().items() if k in self.common}


@dataclass(frozen=True, eq=False)
class PooledAdapters:
    """Computation of a layer if each sample has the adapter of one slot, as `Mixture` says.

    Args:
        kernel: The pool's part of the kernel.
        maps: As in `Mixture`.
    """

    kernel: PooledKernel
    maps: bool = True

    def outputs(
        self, inputs: Any, compute: Compute, adapters: Mapping[str, Adapter], chosen: AdapterIds
    ) -> Any:
        """Compute the outputs of the layer; the ids of the samples are numbers of slots."""
        samples = samples_of(inputs, chosen)
        if chosen.probe_rows:
            return compute(inputs, plain)
        adapter = adapters[self.kernel.name]
        stacks = self.kernel.read(adapter, chosen.ids)
        common = self.kernel.read_common(adapter)
        y = adapt_samples(samples, compute, adapter, stacks, common, self.maps)
        return ops.reshape(y, (-1, *ops.shape(y)[2:]))


class SlotAdapter:
    """The adapter in one slot, as `weighted_sum` uses adapters.

    Args:
        adapter: The pool's adapter of the kernel.
        coefficients: What the method reads.
    """

    def __init__(self, adapter: Adapter, coefficients: dict[str, Any]):
        self.method, self.trained = adapter.method, dict[str, Any]()
        self.compute_dtype, self.adapt = adapter.compute_dtype, adapter.adapt
        self.coefficients = coefficients

    def prepared_arrays(self, training: bool | None = False) -> dict[str, Any]:
        return self.coefficients


@dataclass(frozen=True, eq=False)
class PooledWeights:
    """Computation of a layer if each sample has weights of several slots, as `Mixture` says.

    The ids of a sample are its weights, then the numbers of their slots.

    Args:
        kernel: The pool's part of the kernel.
    """

    kernel: PooledKernel

    maps: ClassVar[bool] = False

    def outputs(
        self, inputs: Any, compute: Compute, adapters: Mapping[str, Adapter], chosen: AdapterIds
    ) -> Any:
        """Compute the outputs of the layer."""
        samples_of(inputs, chosen)
        if chosen.probe_rows:
            return compute(inputs, plain)
        adapter, count = adapters[self.kernel.name], len(chosen.names)
        common = self.kernel.read_common(adapter)
        slots = ops.cast(chosen.ids[0, count:], "int32")  # the same for all samples
        several: dict[str, Any] = {}
        weights: dict[str, Any] = {}
        for place, name in enumerate(map(str, chosen.names)):
            own = self.kernel.read(adapter, slots[place])
            several[name] = SlotAdapter(adapter, own | common)
            weights[name] = chosen.ids[:, place]
        summed = partial(weighted_sum, adapters=several, weights=weights, training=False)
        return compute(inputs, summed)
