"""What a caller asks for each sample of a batch, if the adapters are those of a pool."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.per_sample import Names
from keras_svd_adapters.models.named_adapters import attached_names, require_adapter
from keras_svd_adapters.models.pool.slot_pool import SlotPool, pool_on
from keras_svd_adapters.models.sample_requests import SampleRequests, check_requests
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site

SLOT = "<slot {}>"  # stands for a name, so that all names have one compiled function


@dataclass(frozen=True, eq=False)
class PooledRequests(SampleRequests):
    """The adapter of each sample, or its weights, with the names of a pool.

    Args:
        pool: The pool.
        wanted: Names in the pool, `None` for the plain model; `rows` has their indices or weights.
    """

    pool: SlotPool | None = None
    wanted: Names = ()

    def group(self, adapters: Mapping[str, Adapter]) -> Any:
        """Return the pool's part of the kernel with these adapters, if it has one."""
        assert self.pool is not None
        return self.pool.kernel_of(adapters.get(self.pool.name)) or ([], ())[self.are_weights]

    def computed(self, rows: np.ndarray, compute: Callable[[np.ndarray], Any]) -> Any:
        """Compute a batch; once for each set of adapters that fits into the slots."""
        if self.are_weights:
            with self.placed(rows) as placed:
                return compute(placed)
        outputs = None
        for some in self._fitting(rows):
            here = np.isin(rows, some)
            with self.placed(np.where(here, rows, some[0])) as placed:
                y = compute(placed)
            outputs = y if outputs is None else keras.tree.map_structure(_mix(here), y, outputs)
        return outputs

    @contextmanager
    def placed(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Context manager: the adapters of a batch are in slots; yield rows that name the slots."""
        assert self.pool is not None
        used = range(len(self.wanted)) if self.are_weights else np.unique(rows)
        names = [name for i in used if (name := self.wanted[i]) is not None]
        slots = self.pool.residency.count
        if len(names) > slots:
            raise ValueError(
                f"The batch needs {len(names)} adapters at once, and the pool has {slots} slots: "
                "give fewer prompts or weights at a time, or make a pool with more `slots`. "
                f"Received: {names[0]!r}, ..., {names[-1]!r}"
            )
        with self.pool.pinned(names) as places:
            numbers = np.array([slots if n is None else places.get(n, 0) for n in self.wanted])
            if not self.are_weights:
                yield numbers[rows].astype("int32")
            else:
                numbers = np.broadcast_to(numbers.astype("float32"), rows.shape)
                yield np.concatenate([rows, numbers], axis=1)

    def _fitting(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the ids of a batch in groups whose adapters fit into the slots together."""
        assert self.pool is not None
        ids = np.unique(rows)
        named = ids[[self.wanted[i] is not None for i in ids]]
        plain = [i for i in ids if i not in named]
        count = self.pool.residency.count
        parts = [named[i : i + count] for i in range(0, len(named), count)] or [named]
        return [np.concatenate([parts[0], plain]).astype(rows.dtype), *parts[1:]]


def requests_for(model: keras.Model, asked: SampleRequests) -> SampleRequests:
    """Return requests that fit a model, whose adapters are attached to it or in its pool.

    Raises:
        ValueError: If the model cannot do what is asked.
    """
    sites = adapted_sites(model)
    pool = pool_on(sites)
    if pool is None or not _is_for_pool(sites, pool, asked):
        check_requests(model, asked)
        return asked
    if any(site.layer.is_merged for site in sites if pool.name in adapters_of(site.layer)):
        require_adapter(model, pool.name)  # raises an error
    count = len(asked.names) if asked.are_weights else 1
    names = tuple(SLOT.format(place) for place in range(count))
    return PooledRequests(names, asked.rows, asked.are_weights, pool, asked.names)


def _is_for_pool(sites: list[Site], pool: SlotPool, asked: SampleRequests) -> bool:
    """Return whether a batch takes its adapters from the pool; raise if some are nowhere."""
    names = set(asked.names) - {None}
    if names <= pool.rows.keys():
        return not (asked.are_weights and None in asked.names)
    attached = set(attached_names(sites))
    if names <= attached:
        return False
    for name in sorted(names - pool.rows.keys() - attached, key=str):
        near = difflib.get_close_matches(str(name), [*map(str, pool.rows), *attached], n=3)
        hint = f" Nearest: {', '.join(map(repr, near))}." if near else ""
        raise ValueError(
            f"Neither the pool, with {len(pool.rows)} adapters, nor the model has this adapter: "
            f"`pool.add` takes it in.{hint} Received: name={name!r}"
        )
    outside = ", ".join(sorted(map(repr, names - pool.rows.keys())))
    raise ValueError(
        "A batch takes all its adapters from the pool, or all from those that are attached to the "
        f"model: `pool.add({outside.split(',')[0]}, model)` takes one in. Received: {outside}, "
        "which are attached, with adapters of the pool"
    )


def _mix(here: np.ndarray) -> Callable[[Any, Any], np.ndarray]:
    """Return a function that takes the samples `here` from one output, and others from another."""

    def mix(y: Any, before: Any) -> np.ndarray:
        mixed = np.array(before)
        mixed[: len(here)][here] = y[: len(here)][here]
        return mixed

    return mix
