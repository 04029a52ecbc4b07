"""How PEFT stores an array, and how this package does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_svd_adapters.methods import IA3
from keras_svd_adapters.methods.method import Method


class Turn(NamedTuple):
    """A change of an array's form.

    Args:
        to_peft: Function from a method and its array to the array in PEFT.
        from_peft: The inverse function.
    """

    to_peft: Callable[[Method, np.ndarray], np.ndarray]
    from_peft: Callable[[Method, np.ndarray], np.ndarray]


def _same(method: Method, value: np.ndarray) -> np.ndarray:
    return value


def _transpose(method: Method, value: np.ndarray) -> np.ndarray:
    return value.T


def _as_column(method: Method, value: np.ndarray) -> np.ndarray:
    return value[:, None]


def _flat(method: Method, value: np.ndarray) -> np.ndarray:
    return value.reshape(-1)


def _as_row_or_column(method: Method, value: np.ndarray) -> np.ndarray:
    """Return a scale of the inputs as a row, of the outputs as a column."""
    assert isinstance(method, IA3)
    return value[None] if method.side == "input" else value[:, None]


def _whole_skew(method: Method, value: np.ndarray) -> np.ndarray:
    """Return skew-symmetric blocks from their upper triangles."""
    b = method.block_size  # type: ignore[attr-defined]
    rows, columns = np.triu_indices(b, 1)
    whole = np.zeros((*value.shape[:-1], b, b), value.dtype)
    whole[..., rows, columns], whole[..., columns, rows] = value, -value
    return whole


def _upper_skew(method: Method, value: np.ndarray) -> np.ndarray:
    """Return the upper triangles of the skew-symmetric parts of blocks."""
    rows, columns = np.triu_indices(value.shape[-1], 1)
    return ((value - np.swapaxes(value, -1, -2)) / 2)[..., rows, columns]


SAME = Turn(_same, _same)
TRANSPOSED = Turn(_transpose, _transpose)
COLUMN = Turn(_as_column, _flat)
ROW_OR_COLUMN = Turn(_as_row_or_column, _flat)
WHOLE_BLOCKS = Turn(_whole_skew, _upper_skew)
