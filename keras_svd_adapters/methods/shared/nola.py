"""NOLA: the factors of LoRA as combinations of random matrices.

    K' = K + c (A_0 + sum_i a_i A_i) (sum_j b_j B_j)        a = 0, b = 0,  c = alpha / r

Koohpayegani et al. 2023, arXiv:2310.02556. A_i (m, r) and B_j (r, n) are uniform in +-1 / sqrt of
their number, A_0 in +-1/sqrt(m); all are frozen. The authors' code draws matrices of its own for
each kernel. Here, kernels of all sizes read the leading parts of one set.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul, reshape, transpose
from keras_svd_adapters.methods.contract import Array, Kernel
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.random_bases import PortableRandom
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class NOLA(LowRankUpdate, Ranked):
    """LoRA from random matrices: as many values per kernel as you choose.

    The method trains `2 bases` values per kernel of any size. The model holds
    `(bases + 1) rank m + bases rank n` frozen values for its largest kernel,
    and the bases of each kernel are read once a step.

    Args:
        rank: Integer, the rank of the update.
        bases: Integer, the number of random matrices for each factor.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        seed: Integer, the seed of the random matrices: the same numbers on
            every backend and platform. All NOLA adapters of a model share them.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.NOLA(bases=512).trainable_count(384, 1536)
    1024

    Reference:
        - [Koohpayegani et al., 2023](https://arxiv.org/abs/2310.02556)
    """

    rank: int = 8
    bases: int = 512
    alpha: float | None = None
    seed: int = 0

    name: ClassVar[str] = "nola"
    shared_by: ClassVar[tuple[str, ...]] = ("rank", "bases", "seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(bases=self.bases)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r, count = self.rank, self.bases
        shared = {"fixed_a": (m, r), "bases_a": (m, r, count), "bases_b": (n, r, count)}
        return {
            "coefficients_a": Array((count,), trainable=True, start=0.0),
            "coefficients_b": Array((count,), trainable=True, start=0.0),
            **{name: Array(shape, dtype="compute", shared=True) for name, shape in shared.items()},
        }

    def start_shared(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        streams = {"fixed_a": 0, "bases_a": 1, "bases_b": 2}
        return {k: PortableRandom(self.seed, streams[k]).uniform(s) for k, s in shapes.items()}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        A = self.combination(v.bases_a, v.coefficients_a) + v.fixed_a / sqrt(v.fixed_a.shape[0])
        return A, transpose(self.combination(v.bases_b, self.scale * v.coefficients_b))

    def combination(self, bases: Any, coefficients: Any) -> Any:
        """Return the sum of the bases, each times its coefficient."""
        rows, r, count = bases.shape
        flat = matmul(reshape(bases, (rows * r, count)), coefficients[:, None])
        return reshape(flat, (rows, r)) / sqrt(count)
