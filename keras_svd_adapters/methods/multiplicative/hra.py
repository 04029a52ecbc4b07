"""HRA: Householder reflection adaptation.

    K' = H_{r-1} ... H_0 K        H_i = I - 2 u_i u_i^T / |u_i|^2,  u (m, r)

Yuan et al. 2024, arXiv:2405.17484. The vectors start in equal pairs, u_{2i} = u_{2i+1}. Only the
difference of a pair is computed, so its two reflections start exactly at the identity. The product
of all reflections is `I + A B`, with A (m, r) and B (r, m).

With `orthogonal`, Gram-Schmidt makes the vectors orthonormal, `R = I - 2 U U^T`. This is
`I - 2 u (u^T u)^-1 u^T`, and never the identity: HF PEFT starts at `R K`, far from the kernel.
Here, `K' = R R_0 K`, where R_0 is R at the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.multiplicative.reflections import (
    pairs_of_reflections,
    two_reflections,
)


@dataclass(frozen=True, repr=False)
class HRA(Method):
    """Householder reflection adaptation: reflect a kernel's inputs at trained vectors.

    The method trains `rank * m` values per `(m, n)` kernel and costs as much as
    a LoRA of this rank. HRA does not adapt embeddings.

    Args:
        rank: Even integer, the number of reflections. The paper uses 8.
        orthogonal: Boolean. Whether the vectors are made orthonormal. The rank
            may then be odd, and the method also stores the vectors' start.

    Raises:
        ValueError: If `rank` is not a positive even integer, or exceeds the
            inputs of a kernel.

    Example:

    >>> keras_svd_adapters.methods.HRA(rank=8).trainable_count(384, 1536)
    3072

    Reference:
        - [Yuan et al., 2024](https://arxiv.org/abs/2405.17484)
    """

    rank: int = 8
    orthogonal: bool = False

    name: ClassVar[str] = "hra"
    forms: ClassVar[tuple[str, ...]] = ("additive", "input")

    def __post_init__(self) -> None:
        check_positive_integers(rank=self.rank)
        if self.rank % 2 and not self.orthogonal:
            raise ValueError(f"`rank` must be even, for pairs. Received: rank={self.rank}")

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        return "input"

    def patch_form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        return "additive"

    def check(self, m: int, n: int) -> None:
        if self.rank > m:
            most = m if self.orthogonal else m - m % 2
            raise ValueError(
                f"A kernel of shape ({m}, {n}) has {m} inputs: use `rank={most}` or less, or leave "
                f"this layer out with `exclude`. Received: rank={self.rank}"
            )

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        arrays = {"u": Array((m, self.rank), trainable=True, axes="m.")}
        if self.orthogonal:
            arrays["u_start"] = Array((m, self.rank), saved=True, axes="m.")
        return arrays

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        times = 1 if self.orthogonal else 2
        u = sqrt(2 / self.rank) * rng.uniform(-1, 1, (len(K), self.rank // times))
        u = np.repeat(u, times, axis=1)
        return {"u": u, "u_start": u}

    def factors(self, v: SimpleNamespace) -> tuple[Any, Any]:
        """Return A and B with `K' = K + A B K`."""
        if self.orthogonal:
            return two_reflections(v.u, v.u_start)
        return pairs_of_reflections(v.u)

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        A, B = self.factors(v)
        return {"A": A, "B": B if form == "input" else matmul(B, kernel())}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if form == "input":
            return base.shift(x, matmul(matmul(x, c.A), c.B))
        return base.plus(x, base.times(x, c.A), c.B)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        A, B = self.factors(v)
        return matmul(A, matmul(B, K))
