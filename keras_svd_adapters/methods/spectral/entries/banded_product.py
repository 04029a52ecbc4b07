"""Products with a banded matrix: by its whole, its blocks or its diagonals."""

from __future__ import annotations

from math import prod
from typing import Any

from keras import backend, ops

from keras_svd_adapters.methods.algebra import matmul, reshape, zeros
from keras_svd_adapters.methods.spectral.entries.banded_matrix import (
    FEW_DIAGONALS,
    band_of,
    slide,
    whole_matrix,
    zeros_after,
)

SMALL = 384  # size of M up to which a product with the whole matrix takes less time than its parts
BLOCK = 64
FEW = 16  # tokens; a generation step has one for each sentence


def banded_product(h: Any, values: Any, d: int) -> Any:
    """Return `h M` for a banded M: `(..., k)` to `(..., k)`.

    All shapes are static, and no scatter is needed. Measured on three backends, the quickest way
    depends on the size: for a small M, the product with the whole matrix; for few tokens, the sum
    over the diagonals in one array; for few diagonals in compiled code, their sum one by one;
    otherwise, the product by blocks.
    """
    k = h.shape[-1]
    sizes = h.shape[:-1]
    band = band_of(values, k, d)
    if k <= SMALL:
        return matmul(h, whole_matrix(band, k, d))
    if all(type(size) is int for size in sizes) and prod(sizes) <= FEW:
        return _by_shifts(h, band, d)
    if d <= FEW_DIAGONALS and backend.backend() == "jax":
        return _by_diagonals(h, band, d)
    return _by_blocks(h, band, d)


def _by_blocks(h: Any, band: Any, d: int) -> Any:
    """Return `h M` by blocks of `b` output columns.

    Each block needs `b + 2 d` columns of `h`, so the product is a batched one over windows.
    """
    k = h.shape[-1]
    b = min(max(BLOCK, d), k)
    blocks = -(-k // b)
    spare = blocks * b - k
    tokens = zeros_after(reshape(h, (-1, k)), spare, 1)
    windows = _windows(reshape(tokens, (-1, blocks, b, 1)), d)[..., 0]
    band = reshape(zeros_after(band, spare, 0), (1, blocks, b, 2 * d + 1))
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
    return reshape(ops.sum(slide(given), axis=1)[:, d : d + k], h.shape)


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
    return slide(rows)[:, :, before : before + b]


def _zeros_around(x: Any, count: int) -> Any:
    """Put zeros around the last axis of a matrix, without `ops.pad`: see `zeros_after`."""
    rim = zeros((ops.shape(x)[0], count), x)
    return ops.concatenate([rim, x, rim], axis=1)
