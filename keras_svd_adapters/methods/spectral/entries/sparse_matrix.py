"""Sparse square matrices stored as flat values at any places: index pairs and the product."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_svd_adapters.methods.algebra import matmul, scattered


def random_pairs(k: int, count: int, seed: int) -> np.ndarray:
    """Return `(count, 2)` distinct index pairs of a `(k, k)` matrix, row by row."""
    flat = np.random.default_rng(seed).choice(k * k, count, replace=False)
    return _pairs(flat, k)


def top_pairs(score: np.ndarray, count: int) -> np.ndarray:
    """Return the index pairs of the largest entries of a `(k, k)` score, row by row."""
    flat = np.argsort(-score.ravel(), kind="stable")[:count]
    return _pairs(flat, score.shape[1])


def _pairs(flat: np.ndarray, k: int) -> np.ndarray:
    return np.stack(np.divmod(np.sort(flat), k), axis=1).astype("int32")


def scattered_product(h: Any, values: Any, pairs: Any) -> Any:
    """Return `h M` for the values of M at any index pairs: `(..., k)` to `(..., k)`."""
    k = h.shape[-1]
    flat = pairs[:, 0] * k + pairs[:, 1]
    return matmul(h, scattered(values, flat, (k, k)))
