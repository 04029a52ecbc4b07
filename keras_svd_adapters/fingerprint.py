"""Marks by which an adapter knows the kernel, and the factors, that it was trained on."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

KERNEL_SAMPLES = 4096
FACTOR_SAMPLES = 16


def kernel_fingerprint(matrix: np.ndarray) -> dict[str, Any]:
    """Shape and a hash of sampled values of an `(m, n)` kernel, read as float32."""
    flat = np.ascontiguousarray(matrix, dtype="<f4").ravel()
    sample = flat[:: _odd_step(flat.size, KERNEL_SAMPLES)]
    return {"shape": list(matrix.shape), "sha256": hashlib.sha256(sample.tobytes()).hexdigest()}


def factor_sample(factor: np.ndarray) -> np.ndarray:
    """Sampled entries of a factor, on whose signs and rotations off-diagonal values depend."""
    flat = np.asarray(factor, dtype="float32").ravel()
    return np.ascontiguousarray(flat[:: _odd_step(flat.size, FACTOR_SAMPLES)])


def same_factor(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two samples are of one factor, up to the rounding of other machines."""
    return ours.shape == theirs.shape and bool(np.allclose(ours, theirs, rtol=1e-2, atol=1e-4))


def _odd_step(size: int, samples: int) -> int:
    """A stride that does not stay in one column of a matrix of even width."""
    return max(1, size // samples) | 1
