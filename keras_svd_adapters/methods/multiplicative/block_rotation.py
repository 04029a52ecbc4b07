"""Methods that rotate blocks of a kernel's inputs.

    K' = R K,   R = R_{f-1} ... R_0,   R_i block-diagonal after a permutation, I at the start

Three forms compute the same `x K'`:

    input    (x + x (R - I)) K         one product with K
    kernel   x (K + (R - I) K)         for inputs that the method cannot read
    beside   x K + (x (R - I)) K       for a quantized K

Only differences from I are computed, so that small rotations survive rounding to bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import shape, transpose

from keras_svd_adapters.methods.algebra import is_float32, matmul, reshape
from keras_svd_adapters.methods.contract import Base, Dropout
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True, repr=False)
class BlockRotation(Method):
    """Base class of the methods that rotate blocks of a kernel's inputs."""

    forms: ClassVar[tuple[str, ...]] = ("beside", "input", "kernel")

    def form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        return "input"

    def patch_form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        return "kernel"

    def changes(self, c: SimpleNamespace) -> list[Any]:
        """Return `R_i - I` for each factor, as `(blocks, b, b)` matrices."""
        raise NotImplementedError

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if form == "kernel":
            change = self.rotated(base.matrix(), self.changes(c))
            if is_float32(x):
                return base(x, change)
            return base(x) + base.times(x, change)  # K + change would be rounded
        turned = self.turned(x, self.changes(c))
        if form == "input":
            return base.shift(x, turned)
        return base.plus(x, turned, base.matrix())

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        c = SimpleNamespace(**self.coefficients(v, form, lambda: K))
        return self.rotated(K, self.changes(c))

    def turned(self, x: Any, changes: list[Any]) -> Any:
        """Return `x (R - I)`: `(..., m)` to `(..., m)`; the last factor meets `x` first."""
        columns = transpose(reshape(x, (-1, x.shape[-1])))
        turned = None
        for i in reversed(range(len(changes))):
            given = columns if turned is None else columns + turned
            step = block_product(transpose(changes[i], (0, 2, 1)), given, 2**i)
            turned = step if turned is None else turned + step
        return reshape(transpose(turned), shape(x))

    def rotated(self, K: Any, changes: list[Any]) -> Any:
        """Return `(R - I) K`: `(m, n)` to `(m, n)`; the first factor meets K first."""
        rotated = None
        for i, change in enumerate(changes):
            step = block_product(change, K if rotated is None else K + rotated, 2**i)
            rotated = step if rotated is None else rotated + step
        return rotated


def block_product(blocks: Any, K: Any, distance: int) -> Any:
    """Return `D K` for a D of `(b, b)` blocks, each of two half blocks at a distance.

    At distance 1, the two half blocks are neighbours, and D is block-diagonal.
    """
    m, b = K.shape[0], blocks.shape[-1]
    if distance == 1:
        return reshape(matmul(blocks, reshape(K, (m // b, b, -1))), (m, -1))
    halves = reshape(K, (m // (b * distance), 2, distance, b // 2, -1))
    joined = reshape(transpose(halves, (0, 2, 1, 3, 4)), (m // b, b, -1))
    product = reshape(matmul(blocks, joined), (m // (b * distance), distance, 2, b // 2, -1))
    return reshape(transpose(product, (0, 2, 1, 3, 4)), (m, -1))


def check_block_size(b: int, m: int, n: int, factors: int = 1, step: int = 1) -> None:
    """Raise `ValueError` if `b * 2**(factors - 1)` does not divide m; `step` divides all sizes."""
    span = 2 ** (factors - 1)
    if m % (b * span) == 0:
        return
    sizes = [size for size in range(2, m + 1) if size % step == 0 and m % (size * span) == 0]
    nearest = [f"`block_size={size}`" for size in _neighbours(b, sizes)]
    remedy = f"use {' or '.join(nearest)}, or leave" if nearest else "no block size does; leave"
    divisor = "`block_size`" if span == 1 else f"`block_size` times {span}, for {factors} factors,"
    raise ValueError(
        f"{divisor} must divide the {m} inputs of a kernel of shape ({m}, {n}): {remedy} this "
        f"layer out with `exclude`. Received: block_size={b}"
        + (f", factors={factors}" if factors > 1 else "")
    )


def _neighbours(b: int, sizes: list[int]) -> list[int]:
    """Return the largest size below b and the smallest above."""
    below = [size for size in sizes if size < b]
    above = [size for size in sizes if size > b]
    return below[-1:] + above[:1]
