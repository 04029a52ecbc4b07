"""Products of Householder reflections, as the identity plus a product of two thin matrices.

    R = I - 2 u M u^T,   M = (u^T u)^-1        likewise R_0 from w, and d = u - w

R reflects at the span of the columns of u. With `M - M_0 = -M_0 (d^T u + w^T d) M`,

    R R_0 = I - 2 ((d M + w (M - M_0)) u^T + w M_0 d^T) R_0

is exactly I at d = 0, also in compiled code, and small d survive rounding.
"""

from __future__ import annotations

from typing import Any

from keras import backend, ops

from keras_svd_adapters.methods.algebra import matmul, reshape
from keras_svd_adapters.methods.cayley import newton_step

TINY = 1e-24


def two_reflections(u: Any, w: Any) -> tuple[Any, Any]:
    """Return A and B with `R R_0 = I + A B`, for one or several pairs of `(m, k)` matrices."""
    d, ut, wt = u - w, ops.swapaxes(u, -1, -2), ops.swapaxes(w, -1, -2)
    M, M_0 = _inverse(ops.matmul(ut, u)), _inverse(ops.matmul(wt, w))
    w_0 = ops.matmul(w, M_0)
    growth = ops.matmul(ops.swapaxes(d, -1, -2), u) + ops.matmul(wt, d)  # u^T u - w^T w
    change = ops.matmul(d - ops.matmul(w_0, growth), M)  # d M + w (M - M_0)
    A = ops.concatenate([change, w_0], axis=-1)
    both = ops.concatenate([u, d], axis=-1)
    reflected = both - 2.0 * ops.matmul(w_0, ops.matmul(wt, both))
    return A, -2.0 * ops.swapaxes(reflected, -1, -2)


def pairs_of_reflections(u: Any) -> tuple[Any, Any]:
    """Return A and B with `H_{r-1} ... H_0 = I + A B`, for the columns of `u` and an even r."""
    m, r = u.shape
    pairs = reshape(ops.transpose(u), (r // 2, 2, m, 1))
    A, B = two_reflections(pairs[:, 1], pairs[:, 0])
    left, right = A[0], B[0]
    for i in range(1, r // 2):  # (I + a b)(I + A B) = I + A B + a (b + (b A) B)
        right = ops.concatenate([right, B[i] + matmul(matmul(B[i], left), right)], axis=0)
        left = ops.concatenate([left, A[i]], axis=1)
    return left, right


def _inverse(gram: Any) -> Any:
    """Return the inverse of Gram matrices of independent columns.

    JAX has no `inv` here: on a host, several batched ones in one program wait for each other
    forever (jaxlib 0.10).
    """
    size = gram.shape[-1]
    if size == 1:
        return 1.0 / ops.maximum(gram, TINY)
    if backend.backend() != "jax":
        return ops.inv(gram)
    one, fixed = ops.eye(size, dtype=gram.dtype), ops.stop_gradient(gram)
    roots = ops.sqrt(ops.sum(fixed * one, axis=-1))
    norms = roots[..., :, None] * roots[..., None, :]

    def eliminate(i: Any, A: Any) -> Any:  # Gauss-Jordan, for the i-th row and column at once
        e = ops.take(one, i, axis=0)
        row, column = ops.sum(A * e[:, None], axis=-2), ops.sum(A * e, axis=-1)
        pivot = ops.sum(row * e, axis=-1)[..., None, None]
        return A - (column - e)[..., :, None] * (row + e)[..., None, :] / pivot

    inverse = ops.fori_loop(
        0, size, eliminate, fixed / norms
    )  # with larger pivots, digits are lost
    return newton_step(gram, inverse / norms)
