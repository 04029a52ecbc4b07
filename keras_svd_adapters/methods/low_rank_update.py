"""Methods whose update is a product of two thin matrices that the trained arrays make.

K' = K + L R        L (m, q), R (q, n), made from the trained arrays in float32
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from keras_svd_adapters.methods.algebra import is_float32, matmul
from keras_svd_adapters.methods.contract import Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.method import Method


def lora_arrays(m: int, n: int, rank: int) -> dict[str, Array]:
    """Return the declarations of A `(m, r)` and B `(r, n)`, which trains from 0."""
    return {
        "lora_a": Array((m, rank), trainable=True, axes="m."),
        "lora_b": Array((rank, n), trainable=True, start=0.0, axes=".n"),
    }


class LowRankUpdate(Method):
    """Base class of the methods `K' = K + L R`. At the start, L or R is all zeros."""

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        """Return L and R, of tensors or of NumPy arrays."""
        raise NotImplementedError

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        left, right = self.factors(v, kernel)
        return {"left": left, "right": right}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if is_float32(x) and base.tokens > tokens_for_a_sum(*base.shape, c.left.shape[1]):
            return base(x, matmul(c.left, c.right))
        return base.plus(x, base.times(x, c.left), c.right)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return matmul(*self.factors(v, lambda: K))

    def low_rank(self, v: SimpleNamespace, m: int) -> tuple[Any, Any] | None:
        return self.factors(v, _no_kernel)


def tokens_for_a_sum(m: int, n: int, rank: int) -> float:
    """Return the number of tokens above which `x (K + L R)` takes fewer operations.

    Forward and backward, `(x L) R` takes `6 t q (m + n)` operations for t tokens. The sum takes
    `6 q m n` once, and `2 t m n` for its gradient.
    """
    saved = 6 * rank * (m + n) - 2 * m * n
    return 6 * rank * m * n / saved if saved > 0 else float("inf")


def _no_kernel() -> Any:
    raise RuntimeError("These factors depend on the kernel, so the method has no `low_rank`.")
