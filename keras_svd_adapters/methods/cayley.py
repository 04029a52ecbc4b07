"""The Cayley map from skew-symmetric matrices to rotations.

    R = (I - S)(I + S)^-1,   R - I = -2 S (I + S)^-1,   S^T = -S

A skew-symmetric S is stored as its strict upper triangle, row by row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from keras import ops

from keras_svd_adapters.methods.algebra import reshape


def skew_count(b: int) -> int:
    """Return the number of stored entries of a skew-symmetric `(b, b)` matrix."""
    return b * (b - 1) // 2


def cayley_change(skew: Any, b: int) -> Any:
    """Return `R - I` for each triangle: `(..., b (b - 1) / 2)` to `(..., b, b)`.

    The result is exactly 0 if the triangle is 0.
    """
    S = skew_matrix(skew, b)
    return ops.solve(ops.eye(b, dtype=S.dtype) + S, -2.0 * S)  # S and (I + S)^-1 commute


def skew_matrix(skew: Any, b: int) -> Any:
    """Return S for each triangle: `(..., b (b - 1) / 2)` to `(..., b, b)`."""
    values = ops.concatenate([skew, -skew, ops.zeros_like(skew[..., :1])], axis=-1)
    return reshape(ops.take(values, _places(b), axis=-1), (*skew.shape[:-1], b, b))


@lru_cache(maxsize=64)
def _places(b: int) -> np.ndarray:
    """Return the index of each entry of S among the stored values, their negatives and a zero."""
    count = skew_count(b)
    places: np.ndarray = np.full((b, b), 2 * count, "int32")
    rows, columns = np.triu_indices(b, 1)
    places[rows, columns] = np.arange(count)
    places[columns, rows] = count + np.arange(count)
    return places.ravel()
