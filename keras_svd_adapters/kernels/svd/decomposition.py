"""Singular value decomposition of a kernel, on the host.

The eigenvectors of the smaller Gram matrix, in float64, give the factor on the kernel's smaller
side. One product with the kernel gives the other factor on demand. The code reads the kernel in
blocks, so it makes no second copy of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import eigh, eigvalsh, svd
from scipy.linalg.blas import dsyrk

from keras_svd_adapters.methods.contract import SVD, Truncation

SMALLEST_GRAM_RATIO = 1e-5
LARGEST_FLOAT32_CONDITION = 32
KRYLOV_STEPS = 5
BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Triplets:
    """A decomposition that stores both factors: `(m, r)`, `(r,)` and `(r, n)`."""

    U: np.ndarray
    s: np.ndarray
    Vt: np.ndarray

    def part(self, which: slice) -> Triplets:
        """Return some of the triplets."""
        return Triplets(self.U[:, which], self.s[which], self.Vt[which])


@dataclass(frozen=True, eq=False)
class Decomposition:
    """A decomposition that computes its larger factor from the kernel on demand.

    Args:
        K: `(m, n)` kernel.
        smaller: `(k, k)`, the singular vectors on the smaller side of the
            kernel as columns, `k = min(m, n)`.
        s: `(k,)`, the singular values, all nonzero.
    """

    K: np.ndarray
    smaller: np.ndarray
    s: np.ndarray

    @cached_property
    def U(self) -> np.ndarray:
        """Left singular vectors, `(m, k)`."""
        return self.smaller if is_wide(self.K) else self._larger(slice(None))

    @cached_property
    def Vt(self) -> np.ndarray:
        """Right singular vectors, `(k, n)`."""
        return self._larger(slice(None)).T if is_wide(self.K) else self.smaller.T

    def part(self, which: slice) -> Triplets:
        """Return some of the triplets; only these are computed."""
        smaller, larger = self.smaller[:, which], self._larger(which)
        U, V = (smaller, larger) if is_wide(self.K) else (larger, smaller)
        return Triplets(U, self.s[which], V.T)

    def _larger(self, which: slice) -> np.ndarray:
        """Return the singular vectors on the larger side as columns."""
        scaled = (self.smaller[:, which] / self.s[which]).astype(self.smaller.dtype)
        wide = as_wide(self.K)
        V = np.empty((wide.shape[1], scaled.shape[1]), dtype=self.K.dtype)
        for columns in _blocks(wide):
            V[columns] = wide[:, columns].T.astype(scaled.dtype, copy=False) @ scaled
        return V


def decompose(K: np.ndarray, part: Truncation | None = None) -> SVD:
    """Return the economy decomposition `K = U diag(s) Vt` of an `(m, n)` matrix.

    The function is several times cheaper than a general routine. A Gram matrix
    squares the condition number. If the smallest singular value of a kernel is
    below 1e-5 of the largest, LAPACK decomposes the kernel instead, in float64.

    The sign of each pair is fixed: the largest-magnitude entry of each singular
    vector on the smaller side is positive on every machine.

    Args:
        K: `(m, n)` array, float32 or float64.
        part: Request for the largest triplets only, approximated by a block
            Krylov method (Musco and Musco, 2015). If computing all triplets is
            as fast, the function does that instead.

    Returns:
        An object with `U`, `s` and `Vt` of shapes `(m, k)`, `(k,)`, `(k, n)`.
        `k` is `min(m, n)`, or the rank of `part`. `s` is float64, from large to
        small. The factors are accurate to float32.

    Raises:
        ValueError: If `K` contains NaN or infinity.
    """
    K = np.asarray(K, dtype=None if np.asarray(K).dtype == "float32" else "float64")
    if part is not None and krylov_pays(len(K), K.shape[1], part):
        return fix_signs(_by_krylov(K, part))
    found = _by_gram(K) or by_lapack(K)
    return found if part is None else found.part(slice(0, part.rank))


def singular_values(K: np.ndarray) -> np.ndarray:
    """Return the singular values of an `(m, n)` matrix alone, from large to small.

    The values come from the eigenvalues of the smaller Gram matrix, in float64. For a value below
    1e-8 of the largest, only that bound is known.
    """
    squares = eigvalsh(_gram(as_wide(np.asarray(K))), overwrite_a=True, check_finite=False)
    return np.sqrt(np.maximum(squares[::-1], 0))


def is_wide(K: np.ndarray) -> bool:
    """Return whether an `(m, n)` kernel has no more inputs than outputs."""
    return K.shape[0] <= K.shape[1]


def as_wide(K: np.ndarray) -> np.ndarray:
    """Return the kernel, or its transpose if the kernel has more rows than columns."""
    return K if is_wide(K) else K.T


def krylov_pays(m: int, n: int, part: Truncation) -> bool:
    """Return whether a block Krylov method is faster than computing all triplets."""
    return 2 * (part.rank + part.oversampling) * (KRYLOV_STEPS + 1) < min(m, n)


def require_finite(K: np.ndarray) -> None:
    """Raise `ValueError` if a kernel contains NaN or infinity."""
    if bad := int(K.size - np.isfinite(K).sum()):
        raise ValueError(
            "A kernel with NaN or infinity has no decomposition: load the weights again, or "
            f"leave the layer out with `exclude`. Received: {bad} such values in a kernel of "
            f"shape {K.shape}"
        )


def _blocks(wide: np.ndarray) -> Iterator[slice]:
    for start in range(0, wide.shape[1], BLOCK):
        yield slice(start, start + BLOCK)


def _gram(wide: np.ndarray) -> np.ndarray:
    """Return the lower triangle of `K K^T` in float64, in the memory order of LAPACK."""
    gram = np.zeros((len(wide), len(wide)), order="F")
    for columns in _blocks(wide):
        block = np.asfortranarray(wide[:, columns], dtype="float64")
        gram = dsyrk(1.0, block, beta=1.0, c=gram, overwrite_c=True, lower=True)
    if not np.isfinite(gram.diagonal()).all():
        require_finite(wide)
    return gram


def _by_gram(K: np.ndarray) -> Decomposition | None:
    """Decompose by the Gram matrix of the smaller side, or return `None` if that is unsafe."""
    found = eigh(_gram(as_wide(K)), overwrite_a=True, check_finite=False, driver="evd")
    return decomposition_of_gram(K, *found)


def decomposition_of_gram(
    K: np.ndarray, squares: np.ndarray, smaller: np.ndarray
) -> Decomposition | None:
    """Return the decomposition of a kernel from the eigenvectors of its Gram matrix.

    Args:
        K: `(m, n)` kernel.
        squares: `(k,)` eigenvalues in float64, from small to large.
        smaller: `(k, k)` eigenvectors as columns; the function changes them.

    Returns:
        A `Decomposition`, or `None` if the smallest eigenvalues are too inexact.
    """
    squares, smaller = squares[::-1], smaller[:, ::-1]
    if squares[0] <= 0 or squares[-1] < SMALLEST_GRAM_RATIO**2 * squares[0]:
        return None
    smaller *= _signs(smaller)
    s = np.sqrt(squares)
    narrow = K.dtype == "float32" and s[0] < LARGEST_FLOAT32_CONDITION * s[-1]
    return Decomposition(K, smaller.astype("float32" if narrow else "float64", copy=False), s)


def by_lapack(K: np.ndarray) -> Triplets:
    """Decompose by LAPACK's routine in float64, for kernels whose Gram matrix is unsafe."""
    wide = np.array(as_wide(K), dtype="float64", order="F")
    U, s, Vt = svd(wide, full_matrices=False, overwrite_a=True, check_finite=False)
    return fix_signs(Triplets(U, s, Vt) if is_wide(K) else Triplets(Vt.T, s, U.T))


def _by_krylov(K: np.ndarray, part: Truncation) -> Triplets:
    """Return the largest triplets in the span of K B, (K K^T) K B, and so on, B a random block."""
    rng = np.random.default_rng(part.seed)
    block = K @ rng.normal(size=(K.shape[1], part.rank + part.oversampling)).astype(K.dtype)
    if not np.isfinite(block).all():
        require_finite(K)
    blocks = [np.linalg.qr(block)[0]]
    for _ in range(KRYLOV_STEPS):
        blocks.append(np.linalg.qr(K @ (K.T @ blocks[-1]))[0])
    basis = np.linalg.qr(np.concatenate(blocks, axis=1).astype("float64"))[0]
    small = (basis.astype(K.dtype).T @ K).astype("float64")
    U, s, Vt = np.linalg.svd(small, full_matrices=False)
    return Triplets(basis @ U, s, Vt).part(slice(0, part.rank))


def _signs(vectors: np.ndarray) -> np.ndarray:
    """Return for each column the sign that makes its largest entry positive."""
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return np.where(largest < 0, -1.0, 1.0)


def fix_signs(found: Triplets) -> Triplets:
    """Make the signs of a decomposition the same on every machine."""
    U, s, Vt = found.U, found.s, found.Vt
    sign = _signs(U if len(U) <= Vt.shape[1] else Vt.T)
    return Triplets(U * sign, s, Vt * sign[:, None])
