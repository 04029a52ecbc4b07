"""A term of the loss that a method declares for one of its trained arrays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from keras import ops

from keras_svd_adapters.kernels.stacked_map import map_stacked


class Penalty:
    """Regularizer of the variable of one array; Keras adds it to the loss while the array trains.

    Args:
        adapter: The `Adapter` of the array.
        name: Name of the array.
    """

    def __init__(self, adapter: Any, name: str):
        self.adapter = adapter
        self.name = name
        self.share = 1.0

    def __call__(self, variable: Any) -> Any:
        adapter = self.adapter
        if not adapter.computes():
            return ops.zeros((), "float32")
        v = vars(adapter.values_of_arrays())
        penalty = adapter.declared[self.name].penalty
        if adapter.view.count is None:
            return self.share * penalty(v[self.name], SimpleNamespace(**v))
        own = {name: v.pop(name) for name in adapter.array_names()}

        def of_one(values: Any) -> Any:
            return penalty(values[self.name], SimpleNamespace(**values, **v))

        return self.share * ops.sum(map_stacked(of_one, own))

    @property
    def count(self) -> int:
        """Number of matrices that the array belongs to."""
        return self.adapter.view.count or 1


def penalties_of(adapter: Any) -> list[Penalty]:
    """Return the penalties of the arrays of an adapter."""
    return [v.regularizer for v in adapter.arrays.values() if isinstance(v.regularizer, Penalty)]
