"""LoHa: the elementwise product of two low-rank matrices.

    K' = K + c (A1 B1) o (A2 B2)        A (m, r), B (r, n),  A2 starts at 0,  c = alpha / r

Hyeon-Woo et al. 2021, arXiv:2108.06098; Yeh et al. 2023, arXiv:2309.14859. The start is that of
HF PEFT.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.additive.hadamard import hadamard_factors
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class LoHa(LowRankUpdate, Ranked):
    """Low-rank Hadamard product: an update of rank up to `rank ** 2`.

    The method trains `2 rank * (m + n)` values per `(m, n)` kernel.

    Args:
        rank: Integer, the rank of each of the two matrices.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.LoHa(rank=4).trainable_count(384, 1536)
    15360

    Reference:
        - [Hyeon-Woo et al., 2021](https://arxiv.org/abs/2108.06098)
        - [Yeh et al., 2023](https://arxiv.org/abs/2309.14859)
    """

    rank: int = 8
    alpha: float | None = None

    name: ClassVar[str] = "loha"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r = self.rank
        return {
            "loha_a1": Array((m, r), trainable=True, axes="m."),
            "loha_b1": Array((r, n), trainable=True, axes=".n"),
            "loha_a2": Array((m, r), trainable=True, start=0.0, axes="m."),
            "loha_b2": Array((r, n), trainable=True, axes=".n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        (m, n), r = K.shape, self.rank
        return {
            "loha_a1": kaiming(rng, (m, r)),
            "loha_b1": kaiming(rng, (r, n)),
            "loha_b2": kaiming(rng, (r, n)),
        }

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        left, right = hadamard_factors(v.loha_a1, v.loha_b1, v.loha_a2, v.loha_b2)
        return self.scale * left, right
