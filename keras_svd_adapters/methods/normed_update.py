"""Methods that train the direction and the length of the columns of a kernel.

K' = V f        V = K + L R,  f = magnitude / norm of each column of V

As in DoRA, Liu et al. 2024, arXiv:2402.09353. The factor f is exactly 1 before any change.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from keras.ops import sqrt, stop_gradient

from keras_svd_adapters.methods.algebra import (
    at_least,
    matmul,
    plus_product,
    positive,
    total,
    transpose,
)
from keras_svd_adapters.methods.contract import Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.method import Method

TINY = 1e-12


def length_arrays(n: int) -> dict[str, Array]:
    """Return the declarations of the trained lengths and of those of the kernel."""
    return {
        "magnitude": Array((n,), trainable=True, axes="n"),
        "norm": Array((n,), axes="n"),
    }


def start_lengths(K: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values of these arrays."""
    norm = np.linalg.norm(K, axis=0)
    return {"magnitude": norm, "norm": norm}


def follow_lengths(K: np.ndarray, v: SimpleNamespace) -> dict[str, np.ndarray]:
    """Return the arrays for another kernel, whose columns grow as much."""
    norm = np.linalg.norm(K, axis=0)
    growth = v.magnitude / np.where(v.norm > 0, v.norm, 1)
    return {"norm": norm, "magnitude": np.where(v.norm > 0, growth * norm, norm)}


def length_factor(v: SimpleNamespace, left: Any, right: Any, kernel: Kernel, detach: bool) -> Any:
    """Return f (n,), without an array as large as the kernel; 1 for zero columns of the kernel.

    Args:
        v: The arrays `magnitude` and `norm`.
        left: L (m, q).
        right: R (q, n).
        kernel: Returns K.
        detach: Whether the norm is constant in the gradient.
    """
    if detach:
        left, right = stop_gradient(left), stop_gradient(right)
    Lt = transpose(left)
    product = plus_product(2 * matmul(Lt, kernel()), matmul(Lt, left), right)
    change = total(product * right, axis=0)  # |V_:j|^2 - |K_:j|^2
    has_length = positive(v.norm)
    is_zero = 1 - has_length
    filled = v.norm + is_zero
    square = at_least(1 + change / (filled * filled), TINY)
    growth = sqrt(square)  # |V_:j| / |K_:j|
    # 1 / growth, exactly 1 without a change: TensorFlow's graphs approximate x / sqrt(y)
    shrinkage = 1 - (square - 1) / (growth * (1 + growth))
    return has_length * (v.magnitude / filled * shrinkage) + is_zero


class NormedUpdate(Method):
    """Base class of the methods `K' = (K + L R) f`. At the start, L or R is all zeros."""

    detach_norm: bool

    def factors(self, v: SimpleNamespace) -> tuple[Any, Any]:
        """Return L and R."""
        raise NotImplementedError

    def follow(self, K: np.ndarray, v: SimpleNamespace) -> dict[str, np.ndarray]:
        return follow_lengths(K, v)

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        left, right = self.factors(v)
        gain = length_factor(v, left, right, kernel, self.detach_norm)
        return {"left": left, "right": right, "gain": gain}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        return c.gain * base.plus(x, base.times(x, c.left), c.right)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        c = SimpleNamespace(**self.coefficients(v, form, lambda: K))
        return (c.gain - 1) * K + c.gain * matmul(c.left, c.right)
