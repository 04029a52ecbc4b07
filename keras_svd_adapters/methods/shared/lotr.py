"""LoTR: a small trained core per kernel, between two matrices that all kernels train together.

    K' = K + c A M B        A (m, r), B (r, n) tied,  M (r, r) starts at 0,  c = alpha / r

Bershatsky et al. 2024, arXiv:2402.01376, where the kernels of all layers are one tensor. A and B
start with standard normal numbers, as in the authors' code. An entry of M then changes the kernel
by about its own size, so the rate is small. Kernels of equal shapes read one pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.random_bases import PortableRandom
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class LoTR(LowRankUpdate, Ranked):
    """Low tensor rank adaptation: all kernels of equal shapes train one outer pair.

    The method trains `rank * (m + n)` values for each shape `(m, n)`, and
    `rank ** 2` more for each kernel. `plan` names the groups of kernels that
    share a pair. The gradient of the pair is the sum of those of its kernels.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        seed: Integer, the seed of the start of the pair.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.LoTR(rank=4).trainable_count(384, 1536)
    7696

    Reference:
        - [Bershatsky et al., 2024](https://arxiv.org/abs/2402.01376)
    """

    rank: int = 8
    alpha: float | None = None
    seed: int = 0

    name: ClassVar[str] = "lotr"

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3

    @property
    def tied(self) -> tuple[str, ...]:
        return ("lora_a", "lora_b")

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            "lora_a": Array((m, self.rank), trainable=True, axes="m."),
            "lora_b": Array((self.rank, n), trainable=True, axes=".n"),
            "core": Array((self.rank, self.rank), trainable=True, start=0.0),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        (m, n), draw = K.shape, PortableRandom(self.seed)
        return {"lora_a": draw.normal((m, self.rank)), "lora_b": draw.normal((self.rank, n))}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        return matmul(v.lora_a, self.scale * v.core), v.lora_b
