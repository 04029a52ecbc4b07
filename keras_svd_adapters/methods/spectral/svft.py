"""SVFT: plain, banded, random and top-k.

    K' = U (diag(s) + M) Vt        M (k, k) sparse, starts at 0,  k = min(m, n)

Lingam et al. 2024, arXiv:2405.19597. `d` counts the diagonals on each side of the main diagonal.
The authors' code starts M at random values behind a gate, draws random entries with replacement and
scores top-k by other products. Here M starts at zero without a gate, and entries are distinct.
Top-k selects the largest |u_i . v_j|.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.spectral.banded_matrix import banded_count, banded_product
from keras_svd_adapters.methods.spectral.sparse_matrix import (
    random_pairs,
    scattered_product,
    top_pairs,
)
from keras_svd_adapters.methods.spectral.spectral import Spectral, Times, smallest_are_safe

PATTERNS = ("plain", "banded", "random", "top_k")


@dataclass(frozen=True, repr=False)
class SVFT(Spectral):
    """Singular vectors guided fine-tuning: a sparse matrix between the factors.

    The method trains `k (2 d + 1) - d (d + 1)` values per `(m, n)` kernel, with
    `k = min(m, n)`.

    Args:
        pattern: The trained entries of M. `"plain"` trains the diagonal.
            `"banded"` also trains `d` diagonals on each side. `"random"` trains
            as many entries at random places. `"top_k"` trains as many entries
            at the places with the most similar left and right singular vectors
            (square kernels only).
        d: Integer, the number of diagonals on each side. The papers use 2 to
            24.
        nnz: Integer, the number of entries of `"random"` and `"top_k"`, instead
            of `d`.
        seed: Integer, the seed of `"random"`.
        formulation: `"auto"` keeps the kernel and is exact at step 0.
            `"factored"` computes with the factors instead of the kernel, which
            is fastest in float32 and equal to about 1e-6.

    Raises:
        ValueError: If a hyperparameter is out of range or has no effect.

    Example:

    >>> keras_svd_adapters.SVFT(pattern="banded", d=2).trainable_count(384, 1536)
    1914

    The learning rate matters: use about 3e-2 for `"plain"` and about 3e-3 for
    `d >= 8`.

    Reference:
        - [Lingam et al., 2024](https://arxiv.org/abs/2405.19597)
    """

    pattern: str = "plain"
    d: int = 0
    nnz: int | None = None
    seed: int = 0

    name: ClassVar[str] = "svft"
    linear: ClassVar[dict[str, float]] = {"m": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern not in PATTERNS:
            raise ValueError(
                f"`pattern` must be one of {PATTERNS}. Received: pattern={self.pattern!r}"
            )
        if not isinstance(self.d, int) or self.d < 0:
            raise ValueError(f"`d` must be a non-negative integer. Received: d={self.d!r}")
        if self.pattern == "plain" and self.d:
            raise ValueError(
                "`plain` trains the diagonal alone and takes no `d`; use `pattern='banded'` "
                f"for {self.d} more on each side. Received: pattern='plain', d={self.d}"
            )
        if self.pattern == "banded" and self.d == 0:
            raise ValueError(
                "`banded` needs the number of diagonals on each side, such as `d=2`; `d=0` is "
                "`pattern='plain'`. Received: pattern='banded', d=0"
            )
        if self.nnz is not None:
            self._check_nnz()
        if self.seed and self.pattern != "random":
            raise ValueError(
                "`seed` has an effect on `pattern='random'` only. "
                f"Received: pattern={self.pattern!r}, seed={self.seed}"
            )

    def _check_nnz(self) -> None:
        if self.pattern not in ("random", "top_k") or self.d:
            raise ValueError(
                "`nnz` takes the place of `d` for `random` and `top_k`; give one of the two. "
                f"Received: pattern={self.pattern!r}, d={self.d}, nnz={self.nnz}"
            )
        if not isinstance(self.nnz, int) or self.nnz < 1:
            raise ValueError(f"`nnz` must be a positive integer. Received: nnz={self.nnz!r}")

    @property
    def basis_matters(self) -> bool:  # type: ignore[override]
        """Whether the trained values are valid only with the same singular vectors."""
        return self.pattern != "plain"

    @property
    def recommended_learning_rate(self) -> float:
        if self.pattern == "plain":
            return 3e-2
        return 3e-3 if self.d >= 8 else 1e-2

    @property
    def scattered(self) -> bool:
        """Whether the trained entries can be anywhere in M."""
        return self.pattern in ("random", "top_k")

    def check(self, m: int, n: int) -> None:
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
        if self.pattern == "top_k" and m != n:
            raise ValueError(
                "`top_k` compares left with right singular vectors, which only square kernels "
                f"allow; this one is ({m}, {n}). Use `pattern='banded'` or `'random'` here, or "
                "leave the layer out with `exclude`. Received: pattern='top_k'"
            )

    def count(self, k: int) -> int:
        """Return the number of trained entries of a `(k, k)` M."""
        return banded_count(k, self.d) if self.nnz is None else self.nnz

    def core(self, k: int) -> dict[str, Array]:
        arrays = {"m": Array((self.count(k),), trainable=True, start=0.0)}
        if self.scattered:
            arrays["pairs"] = Array((self.count(k), 2), dtype="int32", saved=True)
        return arrays

    def start_core(self, svd: SVD) -> dict[str, np.ndarray]:
        k = len(svd.s)
        if self.pattern == "random":
            return {"pairs": random_pairs(k, self.count(k), self.seed)}
        if self.pattern == "top_k":
            return {"pairs": top_pairs(np.abs(svd.U.T @ svd.Vt.T), self.count(k))}
        return {}

    def places(self, k: int, pairs: np.ndarray | None) -> np.ndarray:
        """Return the index of each entry of M among the trained values, or -1 if untrained."""
        i = np.arange(k)
        band = np.abs(i[:, None] - i) <= self.d
        rows, columns = np.nonzero(band) if pairs is None else pairs.T
        found = np.full((k, k), -1)
        found[rows, columns] = np.arange(len(rows))
        return found

    def one_sided_is_safe(self, m: int, n: int, s: np.ndarray | None) -> bool:
        return smallest_are_safe(m, n, s)

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        if form in ("input", "output"):
            return {**vars(v), "inverse": 1.0 / v.s}
        return vars(v)

    def product(self, h: Any, c: SimpleNamespace) -> Any:
        """Return `h M`: `(..., k)` to `(..., k)`."""
        if self.pattern == "plain":
            return h * c.m
        if self.pattern == "banded":
            return banded_product(h, c.m, self.d)
        return scattered_product(h, c.m, c.pairs)

    def mix(self, h: Any, c: SimpleNamespace, form: str) -> Any:
        if form == "input":
            return self.product(h, c) * c.inverse
        if form == "output":
            return self.product(h * c.inverse, c)
        if form == "factored":
            return h * c.s + self.product(h, c)
        return self.product(h, c)

    def project(
        self, x: Any, basis: Any, c: SimpleNamespace, form: str, times: Times = matmul
    ) -> Any:
        tokens, rows = x.shape[0], basis.shape[0]
        if self.scattered and (type(tokens) is not int or tokens > rows):
            return times(x, self.mix(basis, c, form))
        return super().project(x, basis, c, form, times)
