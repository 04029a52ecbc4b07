"""Tied-LoRA: one pair of thin matrices for all kernels, and two vectors per kernel.

    K' = K + c (A diag(u)) (B diag(v))        A (m, r), B (r, n) tied,  u = 1, v = 1,  c = alpha / r

Renduchintala et al. 2023, arXiv:2311.09578. All four arrays train; VeRA freezes the pair. B starts
at 0 and A uniform in +-1/sqrt(m), as in LoRA. The paper has kernels of one shape. Here, kernels of
equal shapes read one pair, so each shape of a model has its own. Without the vectors, this is the
LoRA that LoRA-drop's less important layers share: Zhou et al. 2024, arXiv:2402.07721.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate, lora_arrays
from keras_svd_adapters.methods.random_bases import PortableRandom
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class TiedLoRA(LowRankUpdate, Ranked):
    """Low-rank adaptation with one trained pair for all kernels of equal shapes.

    The method trains `rank * (m + n)` values for each shape `(m, n)`, and
    `rank + n` more for each kernel. `plan` names the groups of kernels that
    share a pair. The gradient of the pair is the sum of those of its kernels.
    With `vectors=False`, all of them have one update, as LoRA-drop gives its
    less important layers.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        seed: Integer, the seed of the start of A.
        vectors: Boolean. Whether each kernel trains vectors of its own.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.TiedLoRA(rank=4).trainable_count(384, 1536)
    9220

    Reference:
        - [Renduchintala et al., 2023](https://arxiv.org/abs/2311.09578)
        - [Zhou et al., 2024 (LoRA-drop)](https://arxiv.org/abs/2402.07721)
    """

    rank: int = 8
    alpha: float | None = None
    seed: int = 0
    vectors: bool = True

    name: ClassVar[str] = "tied_lora"

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    @property
    def tied(self) -> tuple[str, ...]:
        return ("lora_a", "lora_b")

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        pair = lora_arrays(m, n, self.rank)
        vectors = {
            "u": Array((self.rank,), trainable=True, start=1.0),
            "v": Array((n,), trainable=True, start=1.0, axes="n"),
        }
        return pair | (vectors if self.vectors else {})

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        m = len(K)
        return {"lora_a": PortableRandom(self.seed).uniform((m, self.rank), 1 / sqrt(m))}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        if not self.vectors:
            return self.scale * v.lora_a, v.lora_b
        return self.scale * v.lora_a * v.u, v.lora_b * v.v
