"""Sums of products in bfloat16 and float16, rounded once.

`x K` is rounded to a grid of 8 bits. On this grid, `x K + h B` loses about half of a change of a
thousandth. One product of `[x h]` with `[K; B]` accumulates in float32 within the accelerator and
rounds afterwards. Cost: one copy of the kernel, which pays off for many tokens but not for few. The
joined kernel would be a second copy of the model, so it is not kept for the backward pass. The
frozen `K` has no gradient.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

HALF = ("bfloat16", "float16")
MANY_TOKENS = 256


def sums_are_rounded_once(dtype: str, tokens: int) -> bool:
    """Return whether one fused product pays off for this dtype and this many rows."""
    return dtype in HALF and tokens >= MANY_TOKENS


def sum_of_products(x: Any, K: Any, h: Any, B: Any) -> Any:
    """Return `x K + h B`, from `(t, m)` and `(t, r)` to `(t, n)`, with no gradient for `K`."""
    if keras.backend.backend() == "torch":
        from keras_svd_adapters.kernels.fused_products_torch import SumOfProducts

        return SumOfProducts.apply(x, K, h, B)
    return _sum_of_products(x, K, h, B)


def sum_of_known(y: Any, x: Any, K: Any, h: Any, B: Any) -> Any:
    """Return `y + h B` for `y = x K`, rounded once; the gradient of `x K` flows through `y`."""
    zero = y - ops.stop_gradient(y)
    return sum_of_products(ops.stop_gradient(x), K, h, B) + zero


def shifted_product(x: Any, d: Any, K: Any) -> Any:
    """Return `(x + d) K` for two `(t, m)` arrays; `d` is small."""
    if keras.backend.backend() == "torch":
        from keras_svd_adapters.kernels.fused_products_torch import ShiftedProduct

        return ShiftedProduct.apply(x, d, K)
    return _sum_of_products(x, K, d, ops.stop_gradient(K))


@ops.custom_gradient
def _sum_of_products(x: Any, K: Any, h: Any, B: Any) -> Any:
    """Return `x K + h B`; compiled code skips the unused parts of the gradient."""

    def gradient(*args: Any, upstream: Any = None) -> Any:
        g = args[0] if upstream is None else upstream
        to_x, to_h = ops.matmul(g, ops.transpose(K)), ops.matmul(g, ops.transpose(B))
        return to_x, None, to_h, ops.matmul(ops.transpose(h), g)

    y = ops.matmul(ops.concatenate([x, h], axis=1), ops.concatenate([K, B], axis=0))
    return y, gradient
