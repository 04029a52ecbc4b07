"""The frozen operation of a layer, as a method sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from keras import ops

from keras_svd_adapters.kernels.fused_products import shifted_product, sum_of_known, sum_of_products

OPEN = 16  # what a size counts that is not known while a function is traced


@dataclass(frozen=True)
class Operation:
    """The frozen operation of a layer, as `methods.method.Base` tells.

    Args:
        run: `x K`, or `x (K + delta)`.
        times: `x A` for any `(m, r)` matrix.
        shape: `(m, n)`.
        tokens: About how many rows the input has.
        matrix: Gives `K` as a matrix, in the compute dtype.
        rounds_once: Whether sums of products with `K` are worth adding up before
            they are rounded.
    """

    run: Callable[..., Any]
    times: Callable[[Any, Any], Any]
    shape: tuple[int, int]
    tokens: int
    matrix: Callable[[], Any]
    rounds_once: bool = False

    def __call__(self, x: Any, delta: Any = None) -> Any:
        return self.run(x, delta)

    def plus(self, x: Any, h: Any, matrix: Any, y: Any = None) -> Any:
        """`x K + h B`; `y` is `x K` where that is known."""
        if not self.rounds_once:
            return (self.run(x) if y is None else y) + ops.matmul(h, matrix)
        if y is None:
            return sum_of_products(x, self.matrix(), h, matrix)
        return sum_of_known(y, x, self.matrix(), h, matrix)

    def shift(self, x: Any, d: Any) -> Any:
        """`(x + d) K`."""
        return shifted_product(x, d, self.matrix()) if self.rounds_once else self.run(x + d)


def count_tokens(sizes: Sequence[Any], unknown: int = OPEN) -> int:
    """The product of sizes, about where some are open, or symbols of an export."""
    return prod(size if type(size) is int else unknown for size in sizes)
