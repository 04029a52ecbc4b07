"""The slots of a pool on the device: a row of numbers for each adapter that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.stored_arrays import StoredArrays
from keras_svd_adapters.runtime.keras_private.layers import attach_child
from keras_svd_adapters.runtime.rows import assign_row

Row = dict[str, np.ndarray]  # the numbers of an adapter on all kernels, by dtype


class Part(NamedTuple):
    """Place of an array of one kernel in a row.

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
    """Layer that stores a row for each slot; a child of the pool's adapter of each kernel.

    A file of weights does not hold the rows.

    Args:
        rows: Number of rows.
        sizes: Length of a row, for each dtype.
        pool: The pool that fills the slots.
    """

    def __init__(self, rows: int, sizes: Mapping[str, int], pool: Any):
        super().__init__(dtype="float32", name="slots")
        self.has_values = True
        self.dtypes = tuple(sizes)
        object.__setattr__(self, "pool", pool)
        for dtype, size in sizes.items():
            self.add_array(f"rows_{dtype}", (rows, size), dtype, 0)
        self.built = True

    def array_names(self) -> Iterable[str]:
        return [f"rows_{dtype}" for dtype in self.dtypes]

    def assign(self, slot: int, row: Row) -> None:
        """Fill a slot."""
        for dtype in self.dtypes:
            assign_row(getattr(self, f"rows_{dtype}"), slot, row[dtype])

    def read(self, parts: Parts, slots: Any) -> dict[str, Any]:
        """Return arrays of one kernel.

        Args:
            parts: The arrays by name.
            slots: Indices of slots, which become an axis in front; or the index of one slot.
        """
        rows = {
            dtype: ops.convert_to_tensor(getattr(self, f"rows_{dtype}")) for dtype in self.dtypes
        }
        in_front = (-1,) if len(slots.shape) else ()
        return {
            name: ops.reshape(
                ops.take(rows[part.dtype][:, part.start : part.stop], slots, axis=0),
                (*in_front, *part.shape),
            )
            for name, part in parts.items()
        }

    def save_own_variables(self, store: Any) -> None:
        pass

    def load_own_variables(self, store: Any) -> None:
        pass


def give_slots(adapter: Adapter, slots: SlotArrays) -> None:
    """Let an adapter read the slots of a pool."""
    attach_child(adapter, "slots", slots)


def slots_of(adapter: Adapter) -> SlotArrays | None:
    """Return the slots that an adapter reads, `None` if it is not of a pool."""
    return getattr(adapter, "slots", None)
