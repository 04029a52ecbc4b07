"""MiSS, also called Bone: rows of the update repeat a few trained rows.

    K'_i = K_i + D_(i mod r)        D (r, n) starts at 0

Kang and Yin 2024, arXiv:2409.15371. It equals a LoRA whose A is frozen: identity matrices below
each other. If r does not divide m, the last identity is cut. The variant "bat" of HF PEFT
multiplies the kernel and is another method.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import constant
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class MiSS(LowRankUpdate, Ranked):
    """Matrix shard sharing: train a few rows that all rows of the update share.

    The method trains `rank * n` values per `(m, n)` kernel.

    Args:
        rank: Integer, the number of trained rows. HF PEFT uses 64.

    Raises:
        ValueError: If `rank` is out of its range.

    Example:

    >>> keras_svd_adapters.methods.MiSS(rank=4).trainable_count(384, 1536)
    6144

    Reference:
        - [Kang and Yin, 2024](https://arxiv.org/abs/2409.15371)
    """

    rank: int = 16

    name: ClassVar[str] = "miss"
    linear: ClassVar[dict[str, float]] = {"shards": 0.0}

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            "shards": Array((self.rank, n), trainable=True, start=0.0, axes=".n"),
            "row": Array((m,), dtype="int32", axes="m"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"row": np.arange(len(K)) % self.rank}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        m = v.row.shape[0]
        identities = np.arange(m)[:, None] % self.rank == np.arange(self.rank)
        return constant(identities, v.shards), v.shards
