"""The frozen operation of a layer, as a method sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from keras import ops

from keras_svd_adapters.kernels.fused_products import shifted_product, sum_of_known, sum_of_products
from keras_svd_adapters.methods.algebra import plus_product, reshape

OPEN = 16  # value of a size that is unknown while a function is traced


@dataclass(frozen=True)
class Operation:
    """The frozen operation of a layer, as `methods.contract.Base` defines.

    Args:
        run: `x K`, or `x (K + delta)`.
        times: `x A` for any `(m, r)` matrix.
        shape: `(m, n)`.
        tokens: Approximate number of rows of the input.
        matrix: Returns `K` as a matrix, in the compute dtype.
        rounds_once: Whether to add up sums of products with `K` before rounding.
        leading: The shape of the inputs before its last axes, if they are passed as rows.
    """

    run: Callable[..., Any]
    times: Callable[[Any, Any], Any]
    shape: tuple[int, int]
    tokens: int
    matrix: Callable[[], Any]
    rounds_once: bool = False
    leading: tuple[Any, ...] | None = None

    def __call__(self, x: Any, delta: Any = None) -> Any:
        return self.run(x, delta)

    def plus(self, x: Any, h: Any, matrix: Any, y: Any = None) -> Any:
        """Compute `x K + h B`; `y` is `x K` if it is known."""
        if not self.rounds_once:
            return plus_product(self.run(x) if y is None else y, h, matrix)
        if y is None:
            return sum_of_products(x, self.matrix(), h, matrix)
        return sum_of_known(y, x, self.matrix(), h, matrix)

    def shift(self, x: Any, d: Any) -> Any:
        """Compute `(x + d) K`."""
        return shifted_product(x, d, self.matrix()) if self.rounds_once else self.run(x + d)

    def sample_mean(self, values: Any) -> Any:
        """Return the mean of `(..., k)` values over the rows of each sample, for each row."""
        size = values.shape[-1]
        whole = values if self.leading is None else reshape(values, (*self.leading, size))
        axes = tuple(range(1, len(whole.shape) - 1))
        if not axes:  # each row is a sample
            return values
        whole = ops.zeros_like(whole) + ops.mean(whole, axis=axes, keepdims=True)
        return whole if self.leading is None else reshape(whole, (-1, size))


def count_tokens(sizes: Sequence[Any], unknown: int = OPEN) -> int:
    """Return the product of sizes; an open size, or a symbol of an export, counts as `unknown`."""
    return prod(size if type(size) is int else unknown for size in sizes)
