"""Marks by which an adapter knows the kernel, and the factors, that it was trained on."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

KERNEL_SAMPLES = 4096
FACTOR_SAMPLES = 16
EQUAL = 1e-7


def kernel_fingerprint(matrix: np.ndarray, dtype: str) -> dict[str, Any]:
    """Shape, dtype and a hash of sampled values of an `(m, n)` kernel, read as float32."""
    flat = np.ascontiguousarray(matrix, dtype="<f4").ravel()
    step = max(1, flat.size // KERNEL_SAMPLES) | 1  # odd, so as not to stay in one column
    sha256 = hashlib.sha256(flat[::step].tobytes()).hexdigest()
    return {"shape": list(matrix.shape), "dtype": dtype, "sha256": sha256}


def factor_sample(vectors: np.ndarray) -> np.ndarray:
    """A few weighted sums over all the singular vectors, which are the columns.

    A vector that is flipped, or a pair that is rotated, changes every sum.
    """
    rows = np.asarray(vectors, dtype="float32")[:: max(1, len(vectors) // FACTOR_SAMPLES)]
    weights = 1 + 0.5 * np.cos(np.arange(vectors.shape[1]))
    return (rows[:FACTOR_SAMPLES] @ weights).astype("float32")


def same_factor(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two samples are of one factor, up to the rounding of other machines."""
    return ours.shape == theirs.shape and bool(np.allclose(ours, theirs, rtol=0, atol=5e-3))


def has_equal_values(s: np.ndarray) -> bool:
    """Whether some singular values are equal, so that their vectors are not unique."""
    return bool((np.abs(np.diff(s)) <= EQUAL * s.max(initial=0)).any())
