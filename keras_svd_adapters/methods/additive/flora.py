"""FLoRA: a small trained core between two trained thin matrices.

    K' = K + c A C B        A (m, r1), C (r1, r2) starts at 0, B (r2, n)

Si et al. 2024, arXiv:2405.14739. For a convolution, the paper's core has one axis for each axis of
the kernel; on the kernel as a matrix it is this form. A and B start as in the authors' package,
normal with variance 1 / (2 r). This is neither the optimizer FLoRA nor Flora's batched LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import (
    check_positive,
    check_positive_integers,
    check_rank,
)
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate


@dataclass(frozen=True, repr=False)
class FLoRA(LowRankUpdate):
    """Low-rank core adaptation: a core tensor between thin matrices.

    The method trains `rank_in m + rank_in rank_out + rank_out n` values per
    `(m, n)` kernel.

    Args:
        rank_in: Integer, the size of the core on the side of the inputs.
        rank_out: Integer, the size of the core on the side of the outputs.
        scale: Float, the factor before the update.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.FLoRA(rank_in=4, rank_out=4).trainable_count(384, 1536)
    7696

    Reference:
        - [Si et al., 2024](https://arxiv.org/abs/2405.14739)
    """

    rank_in: int = 8
    rank_out: int = 8
    scale: float = 1.0

    name: ClassVar[str] = "flora"

    def __post_init__(self) -> None:
        check_positive_integers(rank_in=self.rank_in, rank_out=self.rank_out)
        check_positive(scale=self.scale)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3

    def check(self, m: int, n: int) -> None:
        check_rank(max(self.rank_in, self.rank_out), m, n)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        p, q = self.rank_in, self.rank_out
        return {
            "lora_a": Array((m, p), trainable=True, axes="m."),
            "core": Array((p, q), trainable=True, start=0.0),
            "lora_b": Array((q, n), trainable=True, axes=".n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        (m, n), p, q = K.shape, self.rank_in, self.rank_out
        return {
            "lora_a": rng.normal(scale=sqrt(0.5 / p), size=(m, p)),
            "lora_b": rng.normal(scale=sqrt(0.5 / q), size=(q, n)),
        }

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        return self.scale * matmul(v.lora_a, v.core), v.lora_b
