"""Fingerprints of the kernel and the singular vectors that an adapter was trained on."""

from __future__ import annotations

import hashlib
from math import gcd
from typing import Any

import numpy as np

KERNEL_SAMPLES = 4096
DISTANCE_SAMPLES = 32
FACTOR_SAMPLES = 16
EQUAL = 1e-7


def kernel_fingerprint(matrix: np.ndarray, dtype: str, full: bool = False) -> dict[str, Any]:
    """Return shape, dtype and a hash of sampled float32 values of `(..., m, n)` kernels.

    With `full`, the fingerprint has a hash of all values as well.
    """
    matrix = np.ascontiguousarray(matrix, dtype="<f4")
    marks = {"shape": list(matrix.shape), "dtype": dtype}
    marks["sha256"] = _sha256(_every(matrix, KERNEL_SAMPLES))
    return marks | ({"sha256_of_all": _sha256(matrix)} if full else {})


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def _every(matrix: np.ndarray, count: int) -> np.ndarray:
    """Return about `count` values of `(..., m, n)` matrices, spread over rows and columns."""
    step = max(1, matrix.size // count)
    while gcd(step, matrix.shape[-1]) > 1:
        step += 1
    return matrix.ravel()[::step]


def kernel_sample(matrix: np.ndarray) -> np.ndarray:
    """Return a few values of a kernel, to estimate its distance from another kernel."""
    matrix = np.ascontiguousarray(matrix, dtype="float32")
    return np.ascontiguousarray(_every(matrix, DISTANCE_SAMPLES)[:DISTANCE_SAMPLES])


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the distance of two samples, relative to the norm of the second."""
    if ours.shape != theirs.shape:
        return float("inf")
    size = float(np.linalg.norm(theirs))
    return float(np.linalg.norm(ours - theirs)) / size if size else float(np.any(ours))


def factor_sample(vectors: np.ndarray) -> np.ndarray:
    """Return a few weighted sums over all the entries of the singular vectors.

    A flipped vector, or a rotated pair of vectors, changes the sums by about the angle.

    Args:
        vectors: `(..., m, k)`; the vectors are the columns.
    """
    vectors = vectors.reshape(-1, vectors.shape[-1])
    total = np.asarray(vectors, "float64") @ (1 + 0.5 * np.cos(np.arange(vectors.shape[1])))
    if len(total) > FACTOR_SAMPLES:
        total = _signs(FACTOR_SAMPLES, len(total)) @ total
    return total.astype("float32")


def _signs(rows: int, columns: int) -> np.ndarray:
    """Return random signs that are the same on every machine."""
    words = np.random.Philox(key=0).random_raw(-(-rows * columns // 64))
    bits = np.unpackbits(words.astype("<u8").view("uint8"))[: rows * columns]
    return 2.0 * bits.reshape(rows, columns) - 1


def same_factor(ours: np.ndarray, theirs: np.ndarray, dtype: str) -> bool:
    """Return whether two samples are of one factor, up to the rounding of other machines."""
    tolerance = 1e-4 if dtype in ("float32", "float64") else 2e-2
    return ours.shape == theirs.shape and bool(np.allclose(ours, theirs, rtol=0, atol=tolerance))


def has_equal_values(s: np.ndarray) -> bool:
    """Return whether some singular values are equal, so that their vectors are not unique."""
    return bool((np.abs(np.diff(s)) <= EQUAL * s.max(-1, keepdims=True, initial=0)).any())
