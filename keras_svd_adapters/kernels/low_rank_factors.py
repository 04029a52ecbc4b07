"""Products of two thin matrices, and low-rank approximations by such products."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from keras_svd_adapters.kernels.svd.decomposition import decompose

Factors = tuple[np.ndarray, np.ndarray]


def shrink(A: np.ndarray, B: np.ndarray) -> Factors:
    """Return the same product with no more columns than its rank can have."""
    (m, r), n = A.shape, B.shape[1]
    if r <= min(m, n):
        return A, B
    return (A @ B, np.eye(n)) if n <= m else (np.eye(m), A @ B)


def concatenate(factors: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return the weighted sum of products as one product, exactly."""
    A = np.concatenate([w * A for w, (A, _) in zip(weights, factors, strict=True)], axis=1)
    return shrink(A, np.concatenate([B for _, B in factors]))


def rank_for(s: np.ndarray, energy: float) -> int:
    """Return how many of the largest singular values hold a share of the sum of squares."""
    squares = np.cumsum(s.astype("float64") ** 2)
    return int(np.searchsorted(squares, energy * squares[-1] * (1 - 1e-12)) + 1)


def truncate(delta: np.ndarray, rank: int | None, energy: float | None) -> Factors:
    """Return the nearest product of a rank, or of the least rank with this share of the energy."""
    svd = decompose(delta.astype("float32"))
    r = min(len(svd.s), rank or rank_for(svd.s, energy or 1.0))
    return balanced(svd.U[:, :r], svd.s[:r], svd.Vt[:r])


def balanced(U: np.ndarray, s: np.ndarray, Vt: np.ndarray) -> Factors:
    """Return `U diag(s) Vt` as a product of two factors of equal norm."""
    root = np.sqrt(s)
    return U * root, root[:, None] * Vt


def padded(factors: Sequence[Factors]) -> list[Factors]:
    """Return the same products, all with as many columns as the widest."""
    rank = max(A.shape[1] for A, _ in factors)
    return [
        (np.pad(A, ((0, 0), (0, rank - A.shape[1]))), np.pad(B, ((0, rank - len(B)), (0, 0))))
        for A, B in factors
    ]


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the norm of the difference, relative to the norm of `wanted`."""
    size = float(np.linalg.norm(wanted))
    difference = float(np.linalg.norm(found.astype("float64") - wanted))
    return difference / size if size else difference


def check_size(rank: int | None, energy: float | None) -> None:
    """Raise `ValueError` if `rank` or `energy` is invalid, or if both are given."""
    received = f"Received: rank={rank!r}, energy={energy!r}"
    if rank is not None and energy is not None:
        raise ValueError(f"Give `rank` or `energy`, not both. {received}")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ValueError(f"`rank` must be a positive integer. {received}")
    if energy is not None and not is_share(energy):
        raise ValueError(f"`energy` is a share between 0 and 1, such as 0.99. {received}")


def is_share(value: Any) -> bool:
    """Return whether a value is a number above 0 and at most 1."""
    return isinstance(value, Real) and not isinstance(value, bool) and bool(0 < float(value) <= 1)
