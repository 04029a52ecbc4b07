"""Marks by which an adapter knows the kernel, and the factors, that it was trained on."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

KERNEL_SAMPLES = 4096
DISTANCE_SAMPLES = 32
FACTOR_SAMPLES = 16
EQUAL = 1e-7


def kernel_fingerprint(matrix: np.ndarray, dtype: str, full: bool = False) -> dict[str, Any]:
    """Shape, dtype and a hash of sampled values of an `(m, n)` kernel, or of all, as float32."""
    flat = np.ascontiguousarray(matrix, dtype="<f4").ravel()
    marks = {"shape": list(matrix.shape), "dtype": dtype}
    marks["sha256"] = _sha256(_every(flat, KERNEL_SAMPLES))
    return marks | ({"sha256_of_all": _sha256(flat)} if full else {})


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def _every(flat: np.ndarray, count: int) -> np.ndarray:
    """About `count` values, evenly spread; by an odd step, so as not to stay in one column."""
    return flat[:: max(1, flat.size // count) | 1]


def kernel_sample(matrix: np.ndarray) -> np.ndarray:
    """A few values of a kernel, by which its distance from another can be told."""
    flat = np.asarray(matrix, dtype="float32").ravel()
    return np.ascontiguousarray(_every(flat, DISTANCE_SAMPLES)[:DISTANCE_SAMPLES])


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How far apart two samples are, relative to the second."""
    if ours.shape != theirs.shape:
        return float("inf")
    size = float(np.linalg.norm(theirs))
    return float(np.linalg.norm(ours - theirs)) / size if size else float(np.any(ours))


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
