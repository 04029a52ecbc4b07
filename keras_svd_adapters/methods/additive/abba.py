"""ABBA: the elementwise product of two low-rank matrices; the first starts at the kernel.

    K' = K + g (A1 B1) o (A2 B2)        g = sqrt(alpha1 alpha2)

    A1 = U_r1 diag(s_r1)^1/2,  B1 = diag(s_r1)^1/2 Vt_r1,  B2 starts at 0

Singhal et al. 2025, arXiv:2505.14238. The scale has no rank in it, as in the authors' code. That
code asks for equal ranks and approximates the decomposition; here the ranks are free, and the
decomposition is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.additive.hadamard import hadamard_factors
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import (
    check_positive,
    check_positive_integers,
    check_rank,
)
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate


@dataclass(frozen=True, repr=False)
class ABBA(LowRankUpdate):
    """Hadamard product of two low-rank matrices, with a rank up to `rank1 * rank2`.

    The method trains `(rank1 + rank2) (m + n)` values per `(m, n)` kernel.

    Args:
        rank1: Integer, the rank of the matrix that starts at the kernel.
        rank2: Integer, the rank of the other matrix.
        alpha1: Float. The update is multiplied by `sqrt(alpha1 alpha2)`.
        alpha2: Float, as `alpha1`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.ABBA(rank1=4, rank2=4).trainable_count(384, 1536)
    15360

    Reference:
        - [Singhal et al., 2025](https://arxiv.org/abs/2505.14238)
    """

    rank1: int = 16
    rank2: int = 16
    alpha1: float = 32.0
    alpha2: float = 32.0

    name: ClassVar[str] = "abba"
    needs_svd: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive_integers(rank1=self.rank1, rank2=self.rank2)
        check_positive(alpha1=self.alpha1, alpha2=self.alpha2)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3

    def check(self, m: int, n: int) -> None:
        check_rank(max(self.rank1, self.rank2), m, n)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            "abba_a1": Array((m, self.rank1), trainable=True, axes="m."),
            "abba_b1": Array((self.rank1, n), trainable=True, axes=".n"),
            "abba_a2": Array((m, self.rank2), trainable=True, axes="m."),
            "abba_b2": Array((self.rank2, n), trainable=True, start=0.0, axes=".n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        assert svd is not None
        part, bound = svd.part(slice(0, self.rank1)), sqrt(6 / len(K))
        root = np.sqrt(part.s)
        return {
            "abba_a1": part.U * root,
            "abba_b1": root[:, None] * part.Vt,
            "abba_a2": rng.uniform(-bound, bound, (len(K), self.rank2)),
        }

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        left, right = hadamard_factors(v.abba_a1, v.abba_b1, v.abba_a2, v.abba_b2)
        return sqrt(self.alpha1 * self.alpha2) * left, right
