"""TriLoRA: a low-rank update with a trained diagonal.

    K' = K + c A diag(g) B        A (m, r), B (r, n),  g (r,) starts at 0,  c = alpha / r, or 1

Feng et al. 2024, arXiv:2405.11739. The implementation that we read has no alpha, so that the scale
is 1 by default; A and B start uniform, and only g moves in the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class TriLoRA(LowRankUpdate, Ranked):
    """Low-rank adaptation with a diagonal between the factors, as in a decomposition.

    The method trains `rank * (m + n) + rank` values per `(m, n)` kernel.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.TriLoRA(rank=4).trainable_count(384, 1536)
    7684

    Reference:
        - [Feng et al., 2024](https://arxiv.org/abs/2405.11739)
    """

    rank: int = 8
    alpha: float | None = None

    name: ClassVar[str] = "tri_lora"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            "lora_a": Array((m, self.rank), trainable=True, axes="m."),
            "gate": Array((self.rank,), trainable=True, start=0.0),
            "lora_b": Array((self.rank, n), trainable=True, axes=".n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        (m, n), r = K.shape, self.rank
        return {
            "lora_a": kaiming(rng, (m, r)),
            "lora_b": kaiming(rng, (r, n)),
        }

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        return self.scale * v.lora_a * v.gate, v.lora_b
