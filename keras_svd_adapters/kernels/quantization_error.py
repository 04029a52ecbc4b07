"""Low-rank factors that compensate for the quantization error of a kernel.

    K = Q + c A B + rest       Q = round(K - c A B),   c A B = best rank r of K - Q

LoftQ (Li et al. 2023, arXiv:2310.08659) rounds first and then fits. QPiSSA (Meng et al. 2024,
arXiv:2404.02948) fits first, so its factors start at the largest triplets of the kernel itself.
Both methods repeat these steps. Unlike HF PEFT, this code includes the scale `c`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_svd_adapters.kernels.low_rank_factors import balanced, relative_error
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
        alone: Norm of the error of rounding the kernel itself, relative to the
            norm of the kernel.
        error: Relative norm of the error of the rounded kernel and the factors
            together.
    """

    A: np.ndarray
    B: np.ndarray
    kept: np.ndarray
    alone: float
    error: float


def fit_residual(
    K: np.ndarray,
    round_off: Callable[[np.ndarray], np.ndarray],
    rank: int,
    scale: float,
    start: str,
    iterations: int,
) -> Compensated:
    """Fit factors that compensate for the quantization error of an `(m, n)` kernel.

    Args:
        K: The kernel.
        round_off: Function that returns a matrix after rounding.
        rank: Rank of the factors.
        scale: The factor `c` before their product.
        start: `"loftq"` or `"qpissa"`.
        iterations: Number of times to round and fit.
    """
    plain = round_off(K)
    kept, Q = K, plain if start == "loftq" else np.zeros_like(K)
    for turn in range(iterations):
        A, B = _best(K - Q, rank, scale)
        if start == "qpissa" or turn + 1 < iterations:  # LoftQ ends with a fit
            kept = K - scale * (A @ B)
            Q = round_off(kept)
    error = relative_error(Q + scale * (A @ B), K)
    return Compensated(A, B, kept, relative_error(plain, K), error)


def _best(K: np.ndarray, rank: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return `A` and `B` of equal norm; `scale A B` is the nearest matrix of this rank."""
    svd = decompose(K, Truncation(rank, OVERSAMPLING, seed=0)).part(slice(0, rank))
    A, B = balanced(svd.U, svd.s / scale, svd.Vt)
    return A.astype("float32"), B.astype("float32")
