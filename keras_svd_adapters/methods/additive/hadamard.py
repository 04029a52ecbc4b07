"""The elementwise product of two low-rank matrices, as one low-rank matrix."""

from __future__ import annotations

from typing import Any

from keras_svd_adapters.methods.algebra import reshape


def hadamard_factors(A1: Any, B1: Any, A2: Any, B2: Any) -> tuple[Any, Any]:
    """Return L (m, r1 r2) and R (r1 r2, n) with `L R = (A1 B1) o (A2 B2)`."""
    (m, p), (q, n) = A1.shape, B2.shape
    left = reshape(A1[:, :, None] * A2[:, None, :], (m, p * q))
    return left, reshape(B1[:, None, :] * B2[None, :, :], (p * q, n))
