"""Sums of products in bfloat16 and float16 that are rounded once.

`x K` is rounded to a grid of 8 bits, on which `x K + h B` loses about half of a change of a
thousandth. One product of `[x h]` with `[K; B]` adds up in float32 within the accelerator and
rounds after that; it copies the kernel, which many tokens repay and few do not.
"""

from __future__ import annotations

from typing import Any

from keras import ops

HALF = ("bfloat16", "float16")
MANY_TOKENS = 256


def sums_are_rounded_once(dtype: str, tokens: int) -> bool:
    """Whether products in this dtype, of so many rows, are worth adding up in one."""
    return dtype in HALF and tokens >= MANY_TOKENS


@ops.custom_gradient
def sum_of_products(x: Any, K: Any, h: Any, B: Any) -> Any:
    """`x K + h B`, from `(t, m)` and `(t, r)` to `(t, n)`, with no gradient for `K`.

    Backward, nothing of the joined kernel is kept: it would be a second copy of the model.
    """

    def gradient(*args: Any, upstream: Any = None) -> Any:
        g = args[0] if upstream is None else upstream
        return (
            ops.matmul(g, ops.transpose(K)),
            None,
            ops.matmul(g, ops.transpose(B)),
            ops.matmul(ops.transpose(h), g),
        )

    y = ops.matmul(ops.concatenate([x, h], axis=1), ops.concatenate([K, B], axis=0))
    return y, gradient
