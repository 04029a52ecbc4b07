"""The outputs of a layer with several adapters, each with a weight.

y = x K + w_1 (x K_1 - x K) + w_2 (x K_2 - x K) + ...

A method whose `apply` returns what its base returned adds a product, a shift of the inputs, or a
change of the kernel. These are summed first, and the layer then computes once, as with one adapter.
Of any other method, such as DoRA, the sum has the difference of its output from `x K`.

If one weight is 1 and the others are 0, the result has the bits of that adapter alone; if all are
0, those of the frozen layer. In bfloat16 with many rows, where the layer rounds a sum once, the
last bit may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from keras import backend, ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.in_training.input_penalty import add_input_penalty
from keras_svd_adapters.adapters.operation import Operation
from keras_svd_adapters.adapters.weighted.noted_parts import OUTPUTS, NotedParts
from keras_svd_adapters.methods.algebra import plus_product


def weighted_sum(
    x: Any,
    base: Operation,
    adapters: Mapping[str, Adapter],
    weights: Mapping[str, Any],
    training: bool | None,
) -> Any:
    """Return the outputs of a layer with several adapters.

    Args:
        x: The inputs.
        base: The frozen operation of the layer.
        adapters: The adapters by name.
        weights: The weight of each adapter: a number; or one number for each group of consecutive
            rows of the inputs, such as the rows of a sample or a single row.
        training: Whether the adapters drop out.
    """
    dtype = next(iter(adapters.values())).compute_dtype
    total = WeightedSum(x, base, [weights[name] for name in adapters], dtype)
    for place, adapter in enumerate(adapters.values()):
        arrays = adapter.prepared_arrays(training)
        add_input_penalty(adapter, x, base, arrays, training)
        total.add(place, partial(adapter.adapt, x, training=training, coefficients=arrays))
    return total.outputs()


class WeightedSum(NotedParts):
    """The parts of a sum of adapters.

    Args:
        x: The inputs.
        base: The frozen operation of the layer.
        weights: The weight of each adapter, as in `weighted_sum`.
        dtype: The compute dtype of the layer.
    """

    def __init__(self, x: Any, base: Operation, weights: list[Any], dtype: str):
        super().__init__(x, base, dtype)
        self.weights = weights
        self.in_groups = any(len(weight.shape) for weight in weights)
        if self.in_groups:  # no method makes a kernel of all samples
            self.base = replace(self.base, tokens=min(base.tokens, 1))
        self.products: list[tuple[Any, Any]] = []
        self.outside: list[Any] = []
        self.shifts: dict[int, Any] = {}
        self.deltas: dict[int, Any] = {}
        self.others: dict[int, Any] = {}

    def add(self, place: int, apply: Callable[..., Any]) -> None:
        """Add an adapter, given the place of its weight, and its outputs for a frozen operation."""
        kind, value = self.part_of(apply)
        weight = self.weights[place]
        if kind == OUTPUTS:
            self.others[place] = value
        elif kind == "product":
            h, matrix = value
            self.products.append((weighted(h, weight), matrix))
        elif kind == "shift":
            self.shifts[place] = weighted(value, weight)
        elif self.in_groups:
            self.outside.append(weighted(self.base.times(self.x, value), weight))
        else:
            self.deltas[place] = weighted(value, weight)

    def outputs(self) -> Any:
        """Return the outputs of the layer."""
        y = self._collected()
        for part in self.outside:
            y = y + part
        for place, other in self.others.items():
            y = y + weighted(other - self.plain, self.weights[place])
        for place, other in self.others.items() if not self.in_groups else ():
            y = ops.where(self._is_alone(place), other, y)
        return y

    def _collected(self) -> Any:
        """Return `x K` with the sums of all that was collected."""
        x, base = self.x, self.base
        if self.products and base.rounds_once and not self.deltas:
            parts = list(self.products)
            if self.shifts:
                parts.append((sum_of(self.shifts), ops.stop_gradient(base.matrix())))
            h = ops.concatenate([h for h, _ in parts], axis=-1)
            return base.plus(x, h, ops.concatenate([B for _, B in parts], axis=0))
        y = base(x, sum_of(self.deltas)) if self.deltas or not self.shifts else None
        if self.shifts:
            shifted = base.shift(x, sum_of(self.shifts))
            if y is not None:
                only_deltas = self._are_zero(self.shifts)
                shifted = ops.where(only_deltas, y, shifted + (y - base(x)))
            y = shifted
        for h, matrix in self.products:
            y = plus_product(y, h, matrix)
        return y

    def _is_alone(self, place: int) -> Any:
        """Whether the weight at a place is 1 and the others are 0."""
        others = [each for each in range(len(self.weights)) if each != place]
        return ops.logical_and(ops.equal(self.weights[place], 1), self._are_zero(others))

    def _are_zero(self, places: Any) -> Any:
        zero = ops.convert_to_tensor(True)
        for place in places:
            zero = ops.logical_and(zero, ops.equal(self.weights[place], 0))
        return zero


def sum_of(parts: Mapping[int, Any]) -> Any:
    """Return the sum of some tensors in their order, `None` if there are none."""
    total = None
    for part in parts.values():
        total = part if total is None else total + part
    return total


def weighted(value: Any, weight: Any) -> Any:
    """Return a tensor times a weight, or times the weight of each group of consecutive rows."""
    wide = backend.result_type(value.dtype, "float32")
    product, weight = ops.cast(value, wide), ops.cast(weight, wide)
    if len(weight.shape):
        weight = ops.reshape(weight, (-1, 1, 1))
        groups = ops.reshape(product, (ops.shape(weight)[0], -1, value.shape[-1]))
        product = ops.reshape(groups * weight, ops.shape(value))
    else:
        product = product * weight
    return ops.cast(product, value.dtype)
