"""LoKr: a Kronecker product of a small matrix and a low-rank matrix.

    K' = K + c W1 (x) (W2a W2b)        W1 (i1, o1) starts at 0,  W2 (i2, o2),  c = alpha / r

    i1 i2 = m,  o1 o2 = n

Yeh et al. 2023, arXiv:2309.14859. The sizes are those of HF PEFT: nearest to square roots, the
smaller one first; W2 is one matrix where rank r would not save values. As a product of thin
matrices, W1 (x) (W2a W2b) = (W1 (x) W2a) (I (x) W2b).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import constant, kron
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import check_division, check_positive_integers
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class LoKr(LowRankUpdate, Ranked):
    """Low-rank Kronecker product: an update of high rank by few values.

    The method trains `i1 o1 + rank (i2 + o2)` values per `(m, n)` kernel, or
    `i1 o1 + i2 o2` if that is less.

    Args:
        rank: Integer, the rank of the larger matrix.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        factor: Integer, the size of one matrix on both sides; it must divide m
            and n. `None` chooses the divisors nearest to square roots.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.LoKr(rank=4).trainable_count(384, 1536)
    800

    Reference:
        - [Yeh et al., 2023](https://arxiv.org/abs/2309.14859)
    """

    rank: int = 8
    alpha: float | None = None
    factor: int | None = None

    name: ClassVar[str] = "lokr"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor is not None:
            check_positive_integers(factor=self.factor)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def check(self, m: int, n: int) -> None:
        check_division("factor", self.factor or 1, m=m, n=n)

    def sizes(self, m: int, n: int) -> tuple[int, int, int, int]:
        """Return `i1, o1, i2, o2`."""
        i1, o1 = (
            min(self.factor, size // self.factor) if self.factor else nearest_divisor(size)
            for size in (m, n)
        )
        return i1, o1, m // i1, n // o1

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        i1, o1, i2, o2 = self.sizes(m, n)
        first = {"w1": Array((i1, o1), trainable=True, start=0.0)}
        if self.rank >= max(i2, o2) / 2:
            return first | {"w2": Array((i2, o2), trainable=True)}
        return first | {
            "w2_a": Array((i2, self.rank), trainable=True),
            "w2_b": Array((self.rank, o2), trainable=True),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        _, _, i2, o2 = self.sizes(*K.shape)
        return {
            "w2": kaiming(rng, (i2, o2)),
            "w2_a": kaiming(rng, (i2, self.rank)),
            "w2_b": kaiming(rng, (self.rank, o2)),
        }

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        w1 = self.scale * v.w1
        i1, o1 = w1.shape
        if hasattr(v, "w2_a"):
            a, b = v.w2_a, v.w2_b
        else:
            a, b = v.w2, constant(np.eye(v.w2.shape[1]), v.w2)
        if i1 < o1:
            return kron(constant(np.eye(i1), w1), a), kron(w1, b)
        return kron(w1, a), kron(constant(np.eye(o1), w1), b)


def nearest_divisor(size: int) -> int:
    """Return the largest divisor up to the square root."""
    return next(d for d in range(isqrt(size), 0, -1) if size % d == 0)
