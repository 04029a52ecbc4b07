"""The slots of a pool on the device: a row of numbers for each adapter that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.stored_arrays import StoredArrays
from keras_svd_adapters.runtime.rows import take_rows

Row = dict[str, np.ndarray]  # the numbers of an adapter on all kernels, by dtype


class Part(NamedTuple):
    """Place of an array in a row of its kernel.

    Args:
        dtype: Dtype of the array.
        start: Number of values in front of it.
        shape: Shape of the array.
    """

    dtype: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + prod(self.shape)


Parts = Mapping[str, Part]


class SlotArrays(StoredArrays):
    """Layer that stores a row for each slot; a child of the pool's adapter of a kernel.

    A file of weights does not hold the rows.

    Args:
        rows: Number of rows.
        parts: The arrays of the kernel by name, with their places in a row.
        pool: The pool that fills the slots.
    """

    def __init__(self, rows: int, parts: Parts, pool: Any):
        super().__init__(dtype="float32", name="slots")
        self.has_values = True
        object.__setattr__(self, "parts", dict(parts))
        object.__setattr__(self, "pool", pool)
        for dtype in self.dtypes:
            size = max(part.stop for part in parts.values() if part.dtype == dtype)
            self.add_array(f"rows_{dtype}", (rows, size), dtype, 0)
        self.built = True

    @property
    def dtypes(self) -> list[str]:
        """The dtypes of the arrays."""
        return list(dict.fromkeys(part.dtype for part in self.parts.values()))

    def array_names(self) -> Iterable[str]:
        return [f"rows_{dtype}" for dtype in self.dtypes]

    def rows_of(self, dtype: str) -> keras.Variable:
        """Return the rows with the arrays of a dtype."""
        return getattr(self, f"rows_{dtype}")  # type: ignore[no-any-return]

    def read(self, slots: Any) -> dict[str, Any]:
        """Return the arrays by name.

        Args:
            slots: Indices of slots, which become an axis in front; or the index of one slot.
        """
        rows = {dtype: take_rows(self.rows_of(dtype), slots) for dtype in self.dtypes}
        in_front = (-1,) if len(slots.shape) else ()
        return {
            name: ops.reshape(
                rows[part.dtype][..., part.start : part.stop], (*in_front, *part.shape)
            )
            for name, part in self.parts.items()
        }

    def save_own_variables(self, store: Any) -> None:
        pass

    def load_own_variables(self, store: Any) -> None:
        pass


def places_in_row(arrays: Mapping[str, np.ndarray]) -> Parts:
    """Return the places of some arrays, one after the other, each dtype by itself."""
    parts: dict[str, Part] = {}
    ends: dict[str, int] = {}
    for name, array in arrays.items():
        dtype = str(array.dtype)
        parts[name] = Part(dtype, ends.get(dtype, 0), array.shape)
        ends[dtype] = parts[name].stop
    return parts


def slots_of(adapter: Adapter) -> SlotArrays | None:
    """Return the slots that an adapter reads, `None` if it is not of a pool."""
    return getattr(adapter, "slots", None)
