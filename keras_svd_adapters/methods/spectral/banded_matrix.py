"""Banded square matrices stored as flat values, row by row: the product and its parts."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from keras import backend, ops

from keras_svd_adapters.methods.algebra import matmul, pieces, reshape, zeros

SMALL = 384  # size of M up to which a product with the whole matrix takes less time than its parts
BLOCK = 64
FEW = 16  # tokens; a generation step has one for each sentence
FEW_DIAGONALS = 2  # on each side


def banded_count(k: int, d: int) -> int:
    """Return the number of entries `|i - j| <= d` of a `(k, k)` matrix."""
    return k * (2 * d + 1) - d * (d + 1)


def banded_product(h: Any, values: Any, d: int) -> Any:
    """Return `h M` for a banded M: `(..., k)` to `(..., k)`.

    All shapes are static, and no scatter is needed. Measured on three backends, the quickest way
    depends on the size: for a small M, the product with the whole matrix; for few tokens, the sum
    over the diagonals in one array; for few diagonals in compiled code, their sum one by one;
    otherwise, the product by blocks.
    """
    k = h.shape[-1]
    sizes = h.shape[:-1]
    band = _band(values, k, d)
    if k <= SMALL:
        return matmul(h, _whole(band, k, d))
    if all(type(size) is int for size in sizes) and prod(sizes) <= FEW:
        return _by_shifts(h, band, d)
    if d <= FEW_DIAGONALS and backend.backend() == "jax":
        return _by_diagonals(h, band, d)
    return _by_blocks(h, band, d)


def _whole(band: Any, k: int, d: int) -> Any:
    """Return M. The cells of one of its diagonals are `k + 1` cells apart, row by row."""
    if k <= 2 * d:
        return _slide(band[None])[0, :, d : d + k]
    cells = reshape(_zeros_after(band, k - 2 * d, 1), (-1,))
    return reshape(cells[d : d + k * k], (k, k))


def _by_blocks(h: Any, band: Any, d: int) -> Any:
    """Return `h M` by blocks of `b` output columns.

    Each block needs `b + 2 d` columns of `h`, so the product is a batched one over windows.
    """
    k = h.shape[-1]
    b = min(max(BLOCK, d), k)
    blocks = -(-k // b)
    spare = blocks * b - k
    tokens = _zeros_after(reshape(h, (-1, k)), spare, 1)
    windows = _windows(reshape(tokens, (-1, blocks, b, 1)), d)[..., 0]
    band = reshape(_zeros_after(band, spare, 0), (1, blocks, b, 2 * d + 1))
    weights = _skew(_windows(band, d)[0], b)
    y = ops.einsum("tcp,cpq->tcq", windows, weights)
    return reshape(reshape(y, (-1, blocks * b))[:, :k], ops.shape(h))


def _by_diagonals(h: Any, band: Any, d: int) -> Any:
    """Return `h M` as a sum of products with one diagonal each, which a compiler joins."""
    k = h.shape[-1]
    columns = _zeros_around(ops.transpose(band), d)  # [o, i + d] is M[i, i + o - d]
    given = _zeros_around(reshape(h, (-1, k)), d)
    starts = [(o, 2 * d - o) for o in range(2 * d + 1)]
    y = sum(given[:, i : i + k] * columns[o, i : i + k] for o, i in starts)
    return reshape(y, ops.shape(h))


def _by_shifts(h: Any, band: Any, d: int) -> Any:
    """Return `h M` as a sum over the diagonals of M.

    The code uses `h` once, because XLA would recompute the product behind `h` for every use.
    """
    k = h.shape[-1]
    given = reshape(h, (-1, 1, k)) * ops.transpose(band)  # [o, i] goes to column i + o - d
    return reshape(ops.sum(_slide(given), axis=1)[:, d : d + k], h.shape)


def _band(values: Any, k: int, d: int) -> Any:
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
    padded = _zeros_after(values, 1, 0)
    return reshape(ops.take(padded, places.ravel(), axis=0), places.shape)


def _windows(x: Any, d: int) -> Any:
    """Extend each block by the rims of its neighbours.

    The shape changes from `(l, blocks, b, r)` to `(l, blocks, b + 2 d, r)`.
    """
    b = x.shape[2]
    edge = ops.zeros_like(x[:, :1, :d])
    before = ops.concatenate([edge, x[:, :-1, b - d :]], axis=1)
    after = ops.concatenate([x[:, 1:, :d], edge], axis=1)
    return ops.concatenate([before, x, after], axis=2)


def _skew(rows: Any, b: int) -> Any:
    """Turn band rows `(c, p, 2 d + 1)` into blocks `(c, p, b)`: move row p right by p - 2 d."""
    before = rows.shape[2] - 1
    return _slide(rows)[:, :, before : before + b]


def _slide(rows: Any) -> Any:
    """Move row p right by p: `(c, p, q)` to `(c, p, q + p - 1)`.

    The function pads each row to one cell more than the new width and reads the cells with the new
    width.
    """
    p, q = rows.shape[1:]
    width = q + p - 1
    padded = _zeros_after(rows, p, 2)
    flat = reshape(padded, (-1, p * (width + 1)))[:, : p * width]
    return reshape(flat, (-1, p, width))


def _zeros_after(x: Any, count: int, axis: int) -> Any:
    """Append zeros along an axis.

    `ops.pad` is an operation of its own under `RematScope`. PyTorch recomputes it in a thread that
    has no such scope, and then fails.
    """
    if count == 0:
        return x
    shape = [*ops.shape(x)]
    shape[axis] = count
    return ops.concatenate([x, zeros(shape, x)], axis=axis)


def _zeros_around(x: Any, count: int) -> Any:
    """Put zeros before and after the last axis of a matrix, without `ops.pad` as above."""
    rim = zeros((ops.shape(x)[0], count), x)
    return ops.concatenate([rim, x, rim], axis=1)
