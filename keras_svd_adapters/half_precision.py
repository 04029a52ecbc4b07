"""Sums of products in bfloat16 and float16 that are rounded once.

`x K` is rounded to a grid of 8 bits, on which `x K + h B` loses about half of a change of a
thousandth. One product of `[x h]` with `[K; B]` adds up in float32 within the accelerator and
rounds after that; it copies the kernel, which many tokens repay and few do not. Backward, nothing
of the joined kernel is kept, which would be a second copy of the model, and the frozen `K` has no
gradient.
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
    """`x K + h B`, from `(t, m)` and `(t, r)` to `(t, n)`."""

    def gradient(*args: Any, upstream: Any = None) -> Any:
        g = args[0] if upstream is None else upstream
        return ops.matmul(g, ops.transpose(K)), None, *_gradients(h, B, g)

    return _joined(x, K, h, B), gradient


@ops.custom_gradient
def sum_of_known(y: Any, x: Any, K: Any, h: Any, B: Any) -> Any:
    """`y + h B` for `y = x K`, before that was rounded; its gradient goes the way of `y`."""

    def gradient(*args: Any, upstream: Any = None) -> Any:
        g = args[0] if upstream is None else upstream
        return g, None, None, *_gradients(h, B, g)

    return _joined(x, K, h, B), gradient


@ops.custom_gradient
def shifted_product(x: Any, d: Any, K: Any) -> Any:
    """`(x + d) K` for two `(t, m)` arrays, of which the second is small."""

    def gradient(*args: Any, upstream: Any = None) -> Any:
        g = ops.matmul(args[0] if upstream is None else upstream, ops.transpose(K))
        return g, g, None

    return _joined(x, K, d, K), gradient


def _joined(x: Any, K: Any, h: Any, B: Any) -> Any:
    return ops.matmul(ops.concatenate([x, h], axis=1), ops.concatenate([K, B], axis=0))


def _gradients(h: Any, B: Any, g: Any) -> tuple[Any, Any]:
    return ops.matmul(g, ops.transpose(B)), ops.matmul(ops.transpose(h), g)
