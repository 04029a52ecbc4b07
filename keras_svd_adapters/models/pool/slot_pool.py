"""Slots for the adapters of a pool on the kernels of a model, and their rows in host memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.attachment import activate, activation_of
from keras_svd_adapters.adapters.carried import PREFIX, adapters_of
from keras_svd_adapters.adapters.pooled.pooled_adapters import PooledKernel
from keras_svd_adapters.adapters.pooled.slot_arrays import (
    Row,
    SlotArrays,
    places_in_row,
    slots_of,
)
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import Chosen, check_methods, check_name
from keras_svd_adapters.models.attaching import attach_all, detach_on_error, start_adapter
from keras_svd_adapters.models.decompositions import Found
from keras_svd_adapters.models.pool.residency import Residency
from keras_svd_adapters.models.refresh import sync_model
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.array_sharing import Shared, shared_arrays_for
from keras_svd_adapters.runtime.host_values import to_host_exact
from keras_svd_adapters.runtime.keras_private.layers import attach_child
from keras_svd_adapters.runtime.name_scopes import name_scopes
from keras_svd_adapters.runtime.rows import RowWriter

Arrays = Mapping[str, np.ndarray]  # the arrays of an adapter on one kernel, in float32


class SlotPool:
    """Base class of the public pool: its slots, without what it takes adapters from.

    Args:
        model: The model, which no other thread may use now.
        chosen: The kernels with their methods.
        slots: Number of slots.
        name: Name of the pool's adapter on the kernels.
        verbose: As in `enable`.
    """

    def __init__(
        self, model: keras.Model, chosen: Chosen, slots: int, name: str, verbose: int | str
    ):
        self.model, self.name = model, name
        self.rows: dict[str, Row] = {}
        self.residency = Residency(slots)
        self.sites = {site.key: site for site, _ in chosen}
        self.plain: dict[str, dict[str, np.ndarray]] = {}
        self._by_adapter: dict[int, PooledKernel] = {}
        before = [(site.layer, activation_of(site.layer)) for site, _ in chosen]
        shared = shared_arrays_for(model, chosen)
        with detach_on_error(model, chosen, name):
            attach_all(chosen, name, verbose, shared, partial(_start, name=name))
            for layer, active in before:
                activate(layer, *active)
            self.plain = {key: self.coefficients(key, {}) for key in self.sites}
            self._give_slots(slots + 1)
            plain = self.row({})
            self._row_bytes = sum(array.nbytes for array in plain.values())
            self._fill(slots, plain)
            sync_model(model)

    def adapter(self, key: str) -> Adapter:
        """Return the pool's adapter of a kernel, which has what all adapters of the pool share."""
        return adapters_of(self.sites[key].layer)[self.name]

    def kernel_of(self, adapter: Adapter | None) -> PooledKernel | None:
        """Return the pool's part of the kernel of an adapter, if the adapter is the pool's."""
        return self._by_adapter.get(id(adapter))

    def coefficients(self, key: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """Return what the method of a kernel reads of an adapter, in the compute dtype.

        Without arrays, the adapter changes nothing.
        """
        adapter = self.adapter(key)
        if not arrays and not adapter.method.starts_at_base:
            arrays = {k: np.zeros(v.shape, "float32") for k, v in adapter.trained.items()}
        given = {name: ops.convert_to_tensor(array) for name, array in arrays.items()}
        found = adapter.prepared_arrays(given=given)
        return {k: to_host_exact(v) for k, v in found.items() if k not in common_arrays(adapter)}

    def row(self, coefficients: Mapping[str, Mapping[str, np.ndarray]]) -> Row:
        """Return the row of an adapter; kernels without coefficients stay as they are."""
        arrays: dict[str, list[np.ndarray]] = {}
        for key in self.sites:
            own = coefficients.get(key, self.plain[key])
            for name, part in self._slots_of(key).parts.items():
                arrays.setdefault(part.dtype, []).append(own[name].reshape(-1))
        return {dtype: np.concatenate(each) for dtype, each in arrays.items()}

    @contextmanager
    def pinned(self, names: Collection[str]) -> Iterator[dict[str, int]]:
        """Context manager: these adapters stay in slots; yield the slot of each."""
        with self.residency.pinned(names, self._load) as places:
            yield places

    def _load(self, slot: int, name: str) -> None:
        if (row := self.rows.get(name)) is None:
            raise ValueError(f"The adapter left the pool meanwhile. Received: name={name!r}")
        self._fill(slot, row)

    def _fill(self, slot: int, row: Row) -> None:
        for dtype, write in self._writers.items():
            write(slot, row[dtype])

    def _slots_of(self, key: str) -> SlotArrays:
        slots = slots_of(self.adapter(key))
        assert slots is not None
        return slots

    def _give_slots(self, count: int) -> None:
        """Give each kernel its part of the slots."""
        variables: dict[str, list[keras.Variable]] = {}
        for key, arrays in self.plain.items():
            adapter = self.adapter(key)
            with name_scopes(f"{self.sites[key].path}/{PREFIX}{self.name}"):
                slots = SlotArrays(count, places_in_row(arrays), self)
            attach_child(adapter, "slots", slots)
            self._by_adapter[id(adapter)] = PooledKernel(self.name, common_arrays(adapter))
            for dtype in slots.dtypes:
                variables.setdefault(dtype, []).append(slots.rows_of(dtype))
        self._writers = {dtype: RowWriter(each) for dtype, each in variables.items()}


def common_arrays(adapter: Adapter) -> frozenset[str]:
    """Return the names of the arrays that are equal in all adapters of a method on a kernel."""
    return frozenset(k for k, a in adapter.declared.items() if a.shared or not a.in_file)


def pool_of(model: keras.layers.Layer) -> SlotPool | None:
    """Return the pool whose slots the kernels of a model have."""
    return pool_on(adapted_sites(model))


def pool_on(sites: Iterable[Site]) -> SlotPool | None:
    """Return the pool whose slots one of these kernels has."""
    for site in sites:
        for adapter in adapters_of(site.layer).values():
            if (slots := slots_of(adapter)) is not None:
                return slots.pool  # type: ignore[no-any-return]
    return None


def check_pool(model: keras.layers.Layer, chosen: Chosen, slots: Any, name: str) -> None:
    """Raise an error if kernels of a model cannot have a pool."""
    check_name(name)
    if type(slots) is not int or slots < 1:
        raise ValueError(f"`slots` is a positive integer. Received: slots={slots!r}")
    if (other := pool_of(model)) is not None:
        raise ValueError(
            "A model has one pool at a time: add the adapters to that pool, or `close()` it first. "
            f"Received: a second pool, with {other!r}"
        )
    for site, method in chosen:
        if why := _obstacle(site, method):
            raise ValueError(
                f"`{site.path}` {why}, so samples of one batch cannot have different adapters "
                "there: leave it out with `exclude`, or choose another method. "
                f"Received: {method}"
            )
    check_methods(chosen, name)


def _obstacle(site: Site, method: Method) -> str | None:
    if method.prompt is not None:
        return "would have prompts, which slots do not hold"
    if method.depends_on_input and not method.starts_at_base:
        return "has no values of this method that leave it unchanged, as the plain model needs"
    if site.is_vector:
        return "is a bias or a vector of a normalization"
    if site.view.count is not None:
        return "is a stack of kernels"
    return None if site.host.is_called else "is read by its layer"


def _start(site: Site, method: Method, shared: Shared, found: Found, name: str) -> Adapter:
    """Return an adapter that changes nothing; a start that reads data is not needed for that."""
    if not method.needs:
        return start_adapter(site, method, shared, found, name)
    return site.new_adapter(method, site.form(method), name, {}, shared.get(method.name))
