"""SVFT: plain, banded, random and top-k.

    K' = U (diag(s) + M) Vt        M (k, k) sparse, starts at 0,  k = min(m, n)

Lingam et al. 2024, arXiv:2405.19597. `d` counts the diagonals on each side of the main diagonal.
The authors start M at random behind a gate, draw entries with replacement and score top-k by other
products. Here, M starts at 0 ungated, entries are distinct, top-k takes the largest |u_i . v_j|.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.spectral.entries.pattern import Pattern
from keras_svd_adapters.methods.spectral.forms import smallest_are_safe
from keras_svd_adapters.methods.spectral.spectral import Spectral, Times


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
        d: Integer, the number of diagonals on each side, 2 to 24 in the papers.
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

    Use a learning rate of about 3e-2 for `"plain"`, and 3e-3 for `d >= 8`.

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
        self.entries.check()

    @property
    def entries(self) -> Pattern:
        """The trained entries of M."""
        return Pattern(self.pattern, self.d, self.nnz, self.seed)

    @property
    def basis_matters(self) -> bool:  # type: ignore[override]
        return self.pattern != "plain"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-2 if self.pattern == "plain" else 3e-3 if self.d >= 8 else 1e-2

    def check(self, m: int, n: int) -> None:
        self.entries.check_kernel(m, n)

    def core(self, k: int) -> dict[str, Array]:
        count = self.entries.count(k)
        arrays = {"m": Array((count,), trainable=True, start=0.0)}
        if self.entries.scattered:
            arrays["pairs"] = Array((count, 2), dtype="int32", saved=True)
        return arrays

    def start_core(self, svd: SVD) -> dict[str, np.ndarray]:
        return {"pairs": self.entries.pairs(svd)} if self.entries.scattered else {}

    def one_sided_is_safe(self, m: int, n: int, s: np.ndarray | None) -> bool:
        return smallest_are_safe(m, n, s)

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        return vars(v) | ({"inverse": 1.0 / v.s} if form in ("input", "output") else {})

    def mix(self, h: Any, c: SimpleNamespace, form: str) -> Any:
        if form == "input":
            return self.entries.product(h, c) * c.inverse
        if form == "output":
            return self.entries.product(h * c.inverse, c)
        if form == "factored":
            return h * c.s + self.entries.product(h, c)
        return self.entries.product(h, c)

    def project(
        self, x: Any, basis: Any, c: SimpleNamespace, form: str, times: Times = matmul
    ) -> Any:
        tokens, rows = x.shape[0], basis.shape[0]
        if self.entries.scattered and (type(tokens) is not int or tokens > rows):
            return times(x, self.mix(basis, c, form))
        return super().project(x, basis, c, form, times)
