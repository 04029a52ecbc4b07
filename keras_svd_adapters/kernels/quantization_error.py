"""Low-rank factors that compensate for the quantization error of a kernel.

    K = Q + c A B + rest       Q = round(K - c A B),   c A B = best rank r of K - Q

LoftQ (Li et al. 2023, arXiv:2310.08659) rounds first and then fits. QPiSSA (Meng et al. 2024,
arXiv:2404.02948) fits first, so its factors start at the largest triplets of the kernel itself.
Both methods repeat these steps. Unlike HF PEFT, this code includes the scale `c`. With weights of
the error, the fit is that of `D1 (K - Q) D2`, divided by `D1` and `D2`: L2QER, and LQ-LoRA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_svd_adapters.kernels.error_weights import PLAIN, ErrorWeights
from keras_svd_adapters.kernels.low_rank_factors import balanced
from keras_svd_adapters.kernels.svd.decomposition import decompose
from keras_svd_adapters.methods.contract import Truncation

STARTS = ("loftq", "qpissa")
OVERSAMPLING = 8


class Compensated(NamedTuple):
    """Factors that compensate for the quantization error of a kernel.

    Args:
        A: Factor of shape `(m, r)`.
        B: Factor of shape `(r, n)`.
        kept: `(m, n)` matrix to round instead of the kernel.
        size: Weighted norm of the kernel.
        alone: Weighted norm of the error of rounding the kernel itself.
        error: Weighted norm of the error of the rounded kernel and the factors
            together.
    """

    A: np.ndarray
    B: np.ndarray
    kept: np.ndarray
    size: float
    alone: float
    error: float


def fit_residual(
    K: np.ndarray,
    round_off: Callable[[np.ndarray], np.ndarray],
    rank: int,
    scale: float,
    start: str,
    iterations: int,
    weights: ErrorWeights = PLAIN,
) -> Compensated:
    """Fit factors that compensate for the quantization error of an `(m, n)` kernel.

    Args:
        K: The kernel.
        round_off: Function that returns a matrix after rounding.
        rank: Rank of the factors.
        scale: The factor `c` before their product.
        start: `"loftq"` or `"qpissa"`.
        iterations: Largest number of times to round and fit. The function stops
            when the error no longer falls, and returns the best factors.
        weights: How much each entry of the error counts.
    """
    plain = round_off(K)
    size, alone = weights.size(K), weights.size(plain - K)
    kept, Q = K, plain if start == "loftq" else np.zeros_like(K)
    best: Compensated | None = None
    for turn in range(iterations):
        A, B = _best(K - Q, rank, scale, weights)
        taken = scale * (A @ B)
        if start == "qpissa":
            kept = K - taken
            Q = round_off(kept)
        error = weights.size(Q + taken - K)
        if best is not None and not error < best.error:
            break
        best = Compensated(A, B, kept, size, alone, error)
        if start == "loftq" and turn + 1 < iterations:  # it ends with a fit
            kept = K - taken
            Q = round_off(kept)
    assert best is not None
    return best


def _best(
    E: np.ndarray, rank: int, scale: float, weights: ErrorWeights
) -> tuple[np.ndarray, np.ndarray]:
    """Return A and B of equal norm: `c A B` is nearest to E, weighted by rows and columns."""
    weighted = weights.rows * E * weights.columns
    svd = decompose(weighted, Truncation(rank, OVERSAMPLING, seed=0)).part(slice(0, rank))
    A, B = balanced(svd.U, svd.s / scale, svd.Vt)
    A, B = A / weights.rows, B / weights.columns
    longer = np.sqrt(np.linalg.norm(A) / (np.linalg.norm(B) or 1.0)) or 1.0
    return (A / longer).astype("float32"), (B * longer).astype("float32")
