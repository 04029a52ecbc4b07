"""One adapter per sample of a batch: the algebra of each method, mapped over the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Protocol

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.refusals import refuse_per_sample
from keras_svd_adapters.kernels.stacked_map import one_by_one

Adapt = Callable[[Any, Any], Any]
Compute = Callable[[Any, Adapt], Any]
Names = tuple[str | None, ...]


@dataclass(frozen=True, eq=False)
class AdapterIds:
    """The adapter of each sample of a batch, an input of the function that computes the batch.

    Args:
        names: Names of the adapters, `None` for the plain model.
        ids: `(samples,)` indices of names.
        probe_rows: Number of rows in a test that shows whether layers keep the batch in front.

    Class attribute `chooses`: whether each sample has one adapter.
    """

    chooses: ClassVar[bool] = True

    names: Names
    ids: Any
    probe_rows: int | None = None


class Mixture(Protocol):
    """Computation of a layer whose samples have other adapters, or other weights of these.

    `maps` says whether the backend maps the layer's work over samples.
    """

    @property
    def maps(self) -> bool: ...

    def outputs(
        self, inputs: Any, compute: Compute, adapters: Mapping[str, Adapter], chosen: AdapterIds
    ) -> Any:
        """Compute the outputs of the layer.

        Args:
            inputs: A batch, or a list of several; a sample may have several consecutive rows, as in
                a beam search.
            compute: Function that does the layer's work on some rows, given a function
                `adapt(x, operation)`.
            adapters: The layer's adapters.
            chosen: The adapter of each sample, or its weights.
        """
        ...


def samples_of(rows: Any, chosen: AdapterIds) -> Any:
    """Return `(samples, rows of a sample, ...)` for the rows of a batch; raise if they differ.

    For a list of several inputs, it returns a list.
    """
    if isinstance(rows, list):
        return [samples_of(each, chosen) for each in rows]
    count, size = rows.shape[0], chosen.probe_rows or chosen.ids.shape[0]
    if type(count) is int and type(size) is int and count % size:
        refuse_per_sample(f"{count} rows for a batch of {size} samples")
    if chosen.probe_rows:
        return rows
    return ops.reshape(rows, (ops.shape(chosen.ids)[0], -1, *ops.shape(rows)[1:]))


@dataclass(frozen=True)
class Group:
    """Adapters of a kernel that differ only in their values.

    Args:
        names: Names of the adapters.
        common: The frozen arrays that are equal in all of them, used as one copy.
    """

    names: tuple[str, ...]
    common: frozenset[str]


def groups_of(adapters: Mapping[str, Adapter], names: Names) -> list[Group]:
    """Group the adapters of a kernel that have these names."""
    found: dict[Any, list[str]] = {}
    for name, adapter in adapters.items():
        if name in names:
            found.setdefault((adapter.method, adapter.form), []).append(name)
    return [
        Group(tuple(group), frozenset(_common([adapters[name] for name in group])))
        for group in found.values()
    ]


def _common(adapters: list[Adapter]) -> list[str]:
    first, *others = adapters
    shared = [name for name, array in first.declared.items() if array.shared]
    frozen = [name for name in first.arrays if name not in first.trained]
    return shared + [
        name
        for name in frozen
        if all(bool(ops.all(ops.equal(first.arrays[name], a.arrays[name]))) for a in others)
    ]


@dataclass(frozen=True, eq=False)
class PerSampleAdapters:
    """Computation of a layer if each sample of a batch has its own adapter.

    Args:
        groups: The layer's adapters.
        maps: Whether the backend maps the layer's work over samples. PyTorch does not map
            convolutions of images. No backend maps layers that Keras quantized.
    """

    groups: list[Group]
    maps: bool = True

    def outputs(
        self, inputs: Any, compute: Compute, adapters: Mapping[str, Adapter], chosen: AdapterIds
    ) -> Any:
        """Compute the outputs of the layer, each sample with its own adapter."""
        samples = samples_of(inputs, chosen)
        if chosen.probe_rows:
            return compute(inputs, plain)
        known = {name for group in self.groups for name in group.names}
        y = None
        if set(chosen.names) - known:
            y = map_samples(lambda x: compute(x, plain), samples, self.maps)
        for group in self.groups:
            found = self._of(group, samples, compute, adapters, chosen)
            y = found if y is None else ops.where(_is_in(group, chosen, len(y.shape)), found, y)
        return ops.reshape(y, (-1, *ops.shape(y)[2:]))

    def _of(
        self,
        group: Group,
        samples: Any,
        compute: Compute,
        adapters: Mapping[str, Adapter],
        chosen: AdapterIds,
    ) -> Any:
        """Compute outputs with the adapters of a group; outputs of other samples are not used."""
        first = adapters[group.names[0]]
        each = [adapters[name].prepared_arrays() for name in group.names]
        common = {name: value for name, value in each[0].items() if name in group.common}
        own = each[0].keys() - common.keys()
        places = [group.names.index(n) if n in group.names else 0 for n in chosen.names]
        which = ops.take(np.array(places, "int32"), chosen.ids, axis=0)
        stacks = {name: ops.take(ops.stack([c[name] for c in each]), which, axis=0) for name in own}

        return adapt_samples(samples, compute, first, stacks, common, self.maps)


def adapt_samples(
    samples: Any,
    compute: Compute,
    adapter: Adapter,
    stacks: Mapping[str, Any],
    common: Mapping[str, Any],
    maps: bool,
) -> Any:
    """Compute outputs of samples, each with coefficients of its own.

    Args:
        samples: `(samples, rows of a sample, ...)`.
        compute: As in `Mixture.outputs`.
        adapter: An adapter with the method and the form of all.
        stacks: The coefficients that differ, with an axis for the samples in front.
        common: The coefficients that all samples share.
        maps: As in `Mixture`.
    """

    def one(args: Any) -> Any:
        x, values = args
        return compute(x, partial(_adapt, adapter, coefficients={**values, **common}))

    return map_samples(one, (samples, dict(stacks)), maps)


def map_samples(function: Callable[[Any], Any], values: Any, maps: bool) -> Any:
    """Apply a function to the values of each sample; `maps` says whether the backend maps it."""
    if maps:
        return ops.vectorized_map(function, values)
    is_known = type(keras.tree.flatten(values)[0].shape[0]) is int
    return (one_by_one if is_known else ops.map)(function, values)


def _is_in(group: Group, chosen: AdapterIds, rank: int) -> Any:
    """Whether each sample has an adapter of the group."""
    here = np.array([name in group.names for name in chosen.names])
    return ops.reshape(ops.take(here, chosen.ids, axis=0), (-1,) + (1,) * (rank - 1))


def plain(x: Any, base: Any) -> Any:
    """Return the outputs without an adapter."""
    return base(x)


def _adapt(adapter: Adapter, x: Any, base: Any, coefficients: dict[str, Any]) -> Any:
    """Call `Adapter.adapt` with `tokens=1`, so that no method makes a kernel for each sample."""
    return adapter.adapt(x, replace(base, tokens=1), False, coefficients)
