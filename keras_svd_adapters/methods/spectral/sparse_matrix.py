"""Sparse square matrices stored as flat values: their index pairs and their products."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from keras import ops

BLOCK = 64
FEW = 16  # tokens; a generation step has one for each sentence


def banded_count(k: int, d: int) -> int:
    """Return the number of entries `|i - j| <= d` of a `(k, k)` matrix."""
    return k * (2 * d + 1) - d * (d + 1)


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
    dense = ops.segment_sum(values, flat, num_segments=k * k)  # supports vmap, unlike a scatter
    return ops.matmul(h, ops.reshape(dense, (k, k)))


def banded_product(h: Any, values: Any, d: int) -> Any:
    """Return `h M` for a banded M, computed by blocks: `(..., k)` to `(..., k)`.

    The function divides the output columns into blocks of `b`. Each block needs `b + 2 d` columns
    of `h`, so a batched matmul over windows computes the product. No scatter is needed, and
    all shapes are static. For few tokens, the function sums over the diagonals instead.
    """
    k = h.shape[-1]
    sizes = h.shape[:-1]
    if all(type(size) is int for size in sizes) and prod(sizes) <= FEW:
        return _by_shifts(h, _band(values, k, d), d)
    b = min(max(BLOCK, d), k)
    blocks = -(-k // b)
    spare = blocks * b - k
    tokens = _zeros_after(ops.reshape(h, (-1, k)), spare, 1)
    windows = _windows(ops.reshape(tokens, (-1, blocks, b, 1)), d)[..., 0]
    band = _zeros_after(_band(values, k, d), spare, 0)
    weights = _skew(_windows(ops.reshape(band, (1, blocks, b, 2 * d + 1)), d)[0], b)
    y = ops.einsum("tcp,cpq->tcq", windows, weights)
    return ops.reshape(ops.reshape(y, (-1, blocks * b))[:, :k], ops.shape(h))


def _by_shifts(h: Any, band: Any, d: int) -> Any:
    """Return `h M` as a sum over the diagonals of M.

    The code uses `h` once, because XLA would recompute the product behind `h` for every use.
    """
    k = h.shape[-1]
    given = ops.reshape(h, (-1, 1, k)) * ops.transpose(band)  # [o, i] goes to column i + o - d
    return ops.reshape(ops.sum(_slide(given), axis=1)[:, d : d + k], h.shape)


def _band(values: Any, k: int, d: int) -> Any:
    """Return the flat values as `(k, 2 d + 1)`: row i, offset o is M[i, i + o - d], else 0."""
    if k <= 2 * d:
        return _lookup(values, _band_places(k, 0, k, d))
    head = (d * (3 * d + 1)) // 2  # entries in the first d rows, and in the last d
    tail = values.shape[0] - head
    middle = ops.reshape(values[head:tail], (k - 2 * d, 2 * d + 1))
    first = _lookup(values[:head], _band_places(k, 0, d, d))
    last = _lookup(values[tail:], _band_places(k, k - d, k, d))
    return ops.concatenate([first, middle, last], axis=0)


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
    return ops.reshape(ops.take(padded, places.ravel(), axis=0), places.shape)


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
    flat = ops.reshape(padded, (-1, p * (width + 1)))[:, : p * width]
    return ops.reshape(flat, (-1, p, width))


def _zeros_after(x: Any, count: int, axis: int) -> Any:
    """Append zeros along an axis.

    `ops.pad` is an operation of its own under `RematScope`. PyTorch recomputes it in a thread that
    has no such scope, and then fails.
    """
    if count == 0:
        return x
    shape = [*ops.shape(x)]
    shape[axis] = count
    return ops.concatenate([x, ops.zeros(shape, dtype=x.dtype)], axis=axis)
