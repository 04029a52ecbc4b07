"""The Cayley map from skew-symmetric matrices to rotations.

    R = (I - S)(I + S)^-1,   R - I = -2 S (I + S)^-1,   S^T = -S

A skew-symmetric S is stored as its strict upper triangle, row by row. JAX has no `solve` here: on a
host, several batched ones in one program wait for each other forever (jaxlib 0.10).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from keras import backend, ops

from keras_svd_adapters.methods.algebra import reshape


def skew_count(b: int) -> int:
    """Return the number of stored entries of a skew-symmetric `(b, b)` matrix."""
    return b * (b - 1) // 2


def cayley_change(skew: Any, b: int) -> Any:
    """Return `R - I` for each triangle: `(..., b (b - 1) / 2)` to `(..., b, b)`.

    The result is exactly 0 if the triangle is 0.
    """
    S = skew_matrix(skew, b)
    A = ops.eye(b, dtype=S.dtype) + S
    if backend.backend() == "jax":
        return ops.matmul(inverse(A), -2.0 * S)
    return ops.solve(A, -2.0 * S)  # S and (I + S)^-1 commute


def inverse(A: Any) -> Any:
    """Return the inverse of `A = I + S` for a skew-symmetric S, by Newton's iteration.

    The eigenvalues of `A At = I + S St` lie between 1 and `largest`, so that `r`, a bound of the
    norm of `I - A X`, is known in each iteration. The factor `a` centers the eigenvalues of `A X`.
    The last iteration alone carries the gradient, which is that of the inverse.
    """
    fixed, twice = ops.stop_gradient(A), 2.0 * ops.eye(A.shape[-1], dtype=A.dtype)
    transposed = ops.swapaxes(fixed, -1, -2)
    sums = ops.sum(ops.abs(ops.matmul(fixed, transposed)), axis=-1)
    largest = ops.max(sums, axis=-1)[..., None, None]

    def iterate(X: Any, r: Any) -> tuple[Any, Any]:
        a = 2.0 / (2.0 - r * r)
        return a * ops.matmul(X, twice - ops.matmul(fixed, X)), 0.5 * a * r * r

    X, _ = ops.while_loop(
        lambda X, r: ops.max(r) > 1e-6,
        iterate,
        (2.0 / (1.0 + largest) * transposed, (largest - 1.0) / (largest + 1.0)),
    )
    return newton_step(A, X)


def newton_step(A: Any, X: Any) -> Any:
    """Return a better inverse of `A`, from a good one; it carries the gradient of the inverse."""
    X = ops.stop_gradient(X)
    return ops.matmul(X, 2.0 * ops.eye(A.shape[-1], dtype=A.dtype) - ops.matmul(A, X))


def skew_matrix(skew: Any, b: int) -> Any:
    """Return S for each triangle: `(..., b (b - 1) / 2)` to `(..., b, b)`."""
    values = ops.concatenate([skew, -skew, ops.zeros_like(skew[..., :1])], axis=-1)
    return reshape(ops.take(values, _places(b), axis=-1), (*skew.shape[:-1], b, b))


@lru_cache(maxsize=64)
def _places(b: int) -> np.ndarray:
    """Return the index of each entry of S among the stored values, their negatives and a zero."""
    count = skew_count(b)
    places: np.ndarray = np.full((b, b), 2 * count, "int32")
    rows, columns = np.triu_indices(b, 1)
    places[rows, columns] = np.arange(count)
    places[columns, rows] = count + np.arange(count)
    return places.ravel()
