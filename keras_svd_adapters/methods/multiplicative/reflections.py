"""Products of Householder reflections, as the identity plus a product of two thin matrices.

For U and W with orthonormal columns, R = I - 2 U U^T, R_0 = I - 2 W W^T and D = U - W,

    R R_0 = I - 2 U (R_0 D)^T + 2 D W^T

is exactly I if U = W, and small differences D survive rounding.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_svd_adapters.methods.algebra import matmul, reshape

TINY = 1e-24


def two_reflections(U: Any, W: Any) -> tuple[Any, Any]:
    """Return A and B with `(I - 2 U U^T)(I - 2 W W^T) = I + A B`, for one or several `(m, k)`."""
    D = U - W
    Wt = ops.swapaxes(W, -1, -2)
    reflected = ops.swapaxes(D - 2.0 * ops.matmul(W, ops.matmul(Wt, D)), -1, -2)
    A = ops.concatenate([U, D], axis=-1)
    return A, ops.concatenate([-2.0 * reflected, 2.0 * Wt], axis=-2)


def pairs_of_reflections(u: Any) -> tuple[Any, Any]:
    """Return A and B with `H_{r-1} ... H_0 = I + A B`, for the columns of `u` and an even r."""
    m, r = u.shape
    pairs = reshape(ops.transpose(normalized(u)), (r // 2, 2, m, 1))
    A, B = two_reflections(pairs[:, 1], pairs[:, 0])
    left, right = A[0], B[0]
    for i in range(1, r // 2):  # (I + a b)(I + A B) = I + A B + a (b + (b A) B)
        right = ops.concatenate([right, B[i] + matmul(matmul(B[i], left), right)], axis=0)
        left = ops.concatenate([left, A[i]], axis=1)
    return left, right


def orthonormal(u: Any) -> Any:
    """Return orthonormal columns with the span of those of `u`, by Gram-Schmidt."""
    Q = normalized(u[:, :1])
    for i in range(1, u.shape[1]):
        column = u[:, i : i + 1]
        rest = column - matmul(Q, matmul(ops.transpose(Q), column))
        Q = ops.concatenate([Q, normalized(rest)], axis=1)
    return Q


def normalized(u: Any) -> Any:
    """Return the columns at length 1; a column of zeros stays."""
    return u * ops.rsqrt(ops.maximum(ops.sum(u * u, axis=0, keepdims=True), TINY))
