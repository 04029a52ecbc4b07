"""Patterns of SVFT: which entries of a square matrix M train."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from keras_svd_adapters.methods.contract import SVD
from keras_svd_adapters.methods.spectral.entries.banded_matrix import banded_count
from keras_svd_adapters.methods.spectral.entries.banded_product import banded_product
from keras_svd_adapters.methods.spectral.entries.sparse_matrix import (
    random_pairs,
    scattered_product,
    top_pairs,
)

PATTERNS = ("plain", "banded", "random", "top_k")


class Pattern(NamedTuple):
    """The trained entries of M; the arguments are those of `SVFT`."""

    kind: str
    d: int
    nnz: int | None
    seed: int

    @property
    def scattered(self) -> bool:
        """Whether the trained entries can be anywhere in M."""
        return self.kind in ("random", "top_k")

    def check(self) -> None:
        """Raise `ValueError` if an argument is out of range or has no effect."""
        if self.kind not in PATTERNS:
            raise ValueError(
                f"`pattern` must be one of {PATTERNS}. Received: pattern={self.kind!r}"
            )
        if not isinstance(self.d, int) or self.d < 0:
            raise ValueError(f"`d` must be a non-negative integer. Received: d={self.d!r}")
        if self.kind == "plain" and self.d:
            raise ValueError(
                "`plain` trains the diagonal alone and takes no `d`; use `pattern='banded'` "
                f"for {self.d} more on each side. Received: pattern='plain', d={self.d}"
            )
        if self.kind == "banded" and self.d == 0:
            raise ValueError(
                "`banded` needs the number of diagonals on each side, such as `d=2`; `d=0` is "
                "`pattern='plain'`. Received: pattern='banded', d=0"
            )
        if self.nnz is not None:
            self._check_nnz()
        if self.seed and self.kind != "random":
            raise ValueError(
                "`seed` has an effect on `pattern='random'` only. "
                f"Received: pattern={self.kind!r}, seed={self.seed}"
            )

    def _check_nnz(self) -> None:
        if not self.scattered or self.d:
            raise ValueError(
                "`nnz` takes the place of `d` for `random` and `top_k`; give one of the two. "
                f"Received: pattern={self.kind!r}, d={self.d}, nnz={self.nnz}"
            )
        if not isinstance(self.nnz, int) or self.nnz < 1:
            raise ValueError(f"`nnz` must be a positive integer. Received: nnz={self.nnz!r}")

    def check_kernel(self, m: int, n: int) -> None:
        """Raise `ValueError` if an `(m, n)` kernel does not allow the pattern."""
        k = min(m, n)
        if self.d >= k:
            raise ValueError(
                f"A kernel of shape ({m}, {n}) has {k} singular values, so `d` can be "
                f"{k - 1} at the most; lower it or leave the layer out with `exclude`. "
                f"Received: d={self.d}"
            )
        if self.nnz is not None and self.nnz > k * k:
            raise ValueError(
                f"A kernel of shape ({m}, {n}) has {k * k} entries in M; use `nnz={k * k}` or "
                f"less. Received: nnz={self.nnz}"
            )
        if self.kind == "top_k" and m != n:
            raise ValueError(
                "`top_k` compares left with right singular vectors, which only square kernels "
                f"allow; this one is ({m}, {n}). Use `pattern='banded'` or `'random'` here, or "
                "leave the layer out with `exclude`. Received: pattern='top_k'"
            )

    def count(self, k: int) -> int:
        """Return the number of trained entries of a `(k, k)` M."""
        return banded_count(k, self.d) if self.nnz is None else self.nnz

    def pairs(self, svd: SVD) -> np.ndarray:
        """Return the index pairs of scattered entries, row by row."""
        k = len(svd.s)
        if self.kind == "random":
            return random_pairs(k, self.count(k), self.seed)
        return top_pairs(np.abs(svd.U.T @ svd.Vt.T), self.count(k))

    def places(self, k: int, pairs: np.ndarray | None) -> np.ndarray:
        """Return the index of each entry of M among the trained values, or -1 if untrained."""
        i = np.arange(k)
        band = np.abs(i[:, None] - i) <= self.d
        rows, columns = np.nonzero(band) if pairs is None else pairs.T
        found = np.full((k, k), -1)
        found[rows, columns] = np.arange(len(rows))
        return found

    def product(self, h: Any, c: SimpleNamespace) -> Any:
        """Return `h M`: `(..., k)` to `(..., k)`."""
        if self.kind == "plain":
            return h * c.m
        if self.kind == "banded":
            return banded_product(h, c.m, self.d)
        return scattered_product(h, c.m, c.pairs)
