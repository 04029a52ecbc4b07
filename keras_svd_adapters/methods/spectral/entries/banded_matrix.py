"""Banded square matrices stored as flat values, row by row."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from keras import ops

from keras_svd_adapters.methods.algebra import pieces, reshape, zeros

FEW_DIAGONALS = 2  # on each side


def banded_count(k: int, d: int) -> int:
    """Return the number of entries `|i - j| <= d` of a `(k, k)` matrix."""
    return k * (2 * d + 1) - d * (d + 1)


def band_of(values: Any, k: int, d: int) -> Any:
    """Return the flat values as `(k, 2 d + 1)`: row i, offset o is M[i, i + o - d], else 0."""
    if k <= 2 * d:
        return _lookup(values, _band_places(k, 0, k, d))
    if d <= FEW_DIAGONALS:
        return reshape(ops.concatenate(_with_outside(values, d)), (k, 2 * d + 1))
    head = (d * (3 * d + 1)) // 2  # entries in the first d rows, and in the last d
    tail = values.shape[0] - head
    middle = reshape(values[head:tail], (k - 2 * d, 2 * d + 1))
    first = _lookup(values[:head], _band_places(k, 0, d, d))
    last = _lookup(values[tail:], _band_places(k, k - d, k, d))
    return ops.concatenate([first, middle, last], axis=0)


def whole_matrix(band: Any, k: int, d: int) -> Any:
    """Return M. The cells of one of its diagonals are `k + 1` cells apart, row by row."""
    if k <= 2 * d:
        return slide(band[None])[0, :, d : d + k]
    cells = reshape(zeros_after(band, k - 2 * d, 1), (-1,))
    return reshape(cells[d : d + k * k], (k, k))


def _with_outside(values: Any, d: int) -> list[Any]:
    """Return the flat values in parts, and zeros between them for the cells outside M."""
    outside = zeros((d,), values)
    first = [d + 1 + row for row in range(d - 1)]  # values of the first rows; the last ones mirror
    sizes = [*first, values.shape[0] - 2 * sum(first), *reversed(first)]
    gaps = [*range(d - 1, 0, -1), *range(1, d + 1)]
    parts = [outside]
    for inside, gap in zip(pieces(values, sizes), gaps, strict=True):
        parts += [inside, outside[:gap]]
    return parts


@lru_cache(maxsize=256)
def _band_places(k: int, start: int, stop: int, d: int) -> np.ndarray:
    """Return the index of each cell among the values of rows `start` to `stop`.

    Cells outside M get the index one past the last value.
    """
    i = np.arange(start, stop)[:, None]
    j = i + np.arange(-d, d + 1)[None, :]
    inside = (j >= 0) & (j < k)
    places = np.cumsum(inside.ravel()).reshape(inside.shape) - 1
    return np.where(inside, places, inside.sum()).astype("int32")


def _lookup(values: Any, places: np.ndarray) -> Any:
    padded = zeros_after(values, 1, 0)
    return reshape(ops.take(padded, places.ravel(), axis=0), places.shape)


def slide(rows: Any) -> Any:
    """Move row p right by p: `(c, p, q)` to `(c, p, q + p - 1)`.

    The function pads each row to one cell more than the new width and reads the cells with the new
    width.
    """
    p, q = rows.shape[1:]
    width = q + p - 1
    padded = zeros_after(rows, p, 2)
    flat = reshape(padded, (-1, p * (width + 1)))[:, : p * width]
    return reshape(flat, (-1, p, width))


def zeros_after(x: Any, count: int, axis: int) -> Any:
    """Append zeros along an axis.

    `ops.pad` is an operation of its own under `RematScope`. PyTorch recomputes it in a thread that
    has no such scope, and then fails.
    """
    if count == 0:
        return x
    shape = [*ops.shape(x)]
    shape[axis] = count
    return ops.concatenate([x, zeros(shape, x)], axis=axis)
