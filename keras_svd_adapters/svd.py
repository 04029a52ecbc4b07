"""Singular value decomposition of a kernel, on the host, in float64."""

from __future__ import annotations

import numpy as np

from keras_svd_adapters.methods.method import SVD, Truncation

SMALLEST_GRAM_RATIO = 1e-6
KRYLOV_STEPS = 5


def decompose(K: np.ndarray, part: Truncation | None = None) -> SVD:
    """Economy decomposition `K = U diag(s) Vt` of an `(m, n)` matrix.

    The eigenvectors of the smaller Gram matrix give one factor, one product
    the other: several times cheaper than a general routine. Since a Gram
    matrix squares the condition number, a kernel whose smallest singular value
    is below 1e-6 of the largest goes to LAPACK instead, also in float64.

    The sign of each pair is fixed, so that the largest-magnitude entry of each
    column of `U` is positive on every machine.

    Args:
        K: `(m, n)` array of any float dtype.
        part: The largest triplets alone, approximately, by a block Krylov
            method (Musco and Musco, 2015); all of them where that is as quick.

    Returns:
        `SVD(U, s, Vt)`, float64 arrays of shapes `(m, k)`, `(k,)`, `(k, n)`
        with `k = min(m, n)`, or the rank of `part`, and `s` from large to small.

    Raises:
        ValueError: If `K` holds NaN or infinity.
    """
    K = _finite(K)
    if part is not None and krylov_pays(len(K), K.shape[1], part):
        return _fix_signs(_by_krylov(K, part))
    if K.shape[0] > K.shape[1]:
        V, s, Ut = _decompose_wide(K.T)
        svd = _fix_signs(SVD(Ut.T, s, V.T))
    else:
        svd = _fix_signs(_decompose_wide(K))
    r = None if part is None else part.rank
    return SVD(svd.U[:, :r], svd.s[:r], svd.Vt[:r])


def singular_values(K: np.ndarray) -> np.ndarray:
    """The singular values of an `(m, n)` matrix alone, from large to small.

    They come from the eigenvalues of the smaller Gram matrix, in float64, so
    that one below 1e-8 of the largest is that small and no more is known.
    """
    K = _finite(K)
    gram = K @ K.T if K.shape[0] <= K.shape[1] else K.T @ K
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))


def _finite(K: np.ndarray) -> np.ndarray:
    K = np.asarray(K, dtype="float64")
    if not np.isfinite(K).all():
        bad = int(K.size - np.isfinite(K).sum())
        raise ValueError(
            "A kernel with NaN or infinity has no decomposition: load the weights again, or "
            f"leave the layer out with `exclude`. Received: {bad} such values in a kernel of "
            f"shape {K.shape}"
        )
    return K


def krylov_pays(m: int, n: int, part: Truncation) -> bool:
    """Whether the largest triplets come sooner by a block Krylov method than with all others."""
    return 2 * (part.rank + part.oversampling) * (KRYLOV_STEPS + 1) < min(m, n)


def _by_krylov(K: np.ndarray, part: Truncation) -> SVD:
    """The largest triplets within the span of K B, (K K^T) K B, and so on, B a random block."""
    rng = np.random.default_rng(part.seed)
    block = K @ rng.normal(size=(K.shape[1], part.rank + part.oversampling))
    blocks = [np.linalg.qr(block)[0]]
    for _ in range(KRYLOV_STEPS):
        blocks.append(np.linalg.qr(K @ (K.T @ blocks[-1]))[0])
    basis = np.linalg.qr(np.concatenate(blocks, axis=1))[0]
    U, s, Vt = np.linalg.svd(basis.T @ K, full_matrices=False)
    r = part.rank
    return SVD(basis @ U[:, :r], s[:r], Vt[:r])


def _decompose_wide(K: np.ndarray) -> SVD:
    return _by_gram(K) or SVD(*np.linalg.svd(K, full_matrices=False))


def _by_gram(K: np.ndarray) -> SVD | None:
    """Decomposition of a wide matrix by its Gram matrix, `None` if that is unsafe."""
    squares, U = np.linalg.eigh(K @ K.T)
    squares, U = squares[::-1], U[:, ::-1]
    if squares[0] <= 0 or squares[-1] < SMALLEST_GRAM_RATIO**2 * squares[0]:
        return None
    s = np.sqrt(squares)
    return SVD(U, s, (U.T @ K) / s[:, None])


def _fix_signs(svd: SVD) -> SVD:
    U, s, Vt = svd
    largest = U[np.abs(U).argmax(axis=0), np.arange(U.shape[1])]
    sign = np.where(largest < 0, -1.0, 1.0)
    return SVD(U * sign, s, Vt * sign[:, None])
