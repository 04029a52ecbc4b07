"""DyLoRA: a LoRA that also works with its first ranks alone.

    K' = K + (alpha / b) A_b B_b        A_b (m, b), B_b (b, n): the first b of r ranks

Valipour et al. 2022, arXiv:2210.07558. While the model trains, b is uniform in 1, ..., r and new in
each step, the same in all kernels. Else b is the number of ranks whose mask is 1: all, until the
mask is set. A starts uniform in +-1/sqrt(m), and B at 0. The authors' code multiplies both factors
by sqrt(r / b) and the product by alpha / r, which is the same scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import constant, held_but, largest, positive, total
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate, lora_arrays
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class DyLoRA(LowRankUpdate, Ranked):
    """Dynamic low-rank adaptation: one training for all ranks up to `rank`.

    The method trains `rank * (m + n)` values per `(m, n)` kernel. `prune(model,
    b / rank)` leaves the first `b` ranks, with the scale `alpha / b` that they
    have in training.

    Args:
        rank: Integer, the largest rank.
        alpha: Float, numerator of the scale. `None` sets alpha to `rank`, for a
            scale of 1 with all ranks.
        last_alone: Boolean. Whether only the last of the drawn ranks trains in a
            step.
        seed: Integer, the seed of the drawn ranks.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.DyLoRA(rank=4).trainable_count(384, 1536)
    7680

    A layer that is called several times in a step draws a rank for each call.

    Reference:
        - [Valipour et al., 2022](https://arxiv.org/abs/2210.07558)
    """

    rank: int = 8
    alpha: float | None = None
    last_alone: bool = False
    seed: int = 0

    name: ClassVar[str] = "dylora"
    draws_alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed >= 2**31:
            raise ValueError(f"`seed` must be below 2**31. Received: seed={self.seed!r}")

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            **lora_arrays(m, n, self.rank),
            "mask": Array((self.rank,), saved=True, start=1.0),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"lora_a": kaiming(rng, (len(K), self.rank))}

    def draws(self, m: int, n: int, form: str) -> dict[str, tuple[int, ...]]:
        return {"turn": (1,)}

    def active(self, v: SimpleNamespace, skipped: int = 0) -> Any:
        """Return 1 for the ranks from `skipped` to the drawn one, by the mask, and 0 for others."""
        drawn = (v.turn + 0.5) % 1.0 * self.rank  # 0 without training: all ranks
        left = constant(self.rank - np.arange(self.rank) - skipped, v.mask)
        return positive(left - drawn) * v.mask

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        active = self.active(v)
        alpha = self.rank if self.alpha is None else self.alpha
        b = total(active)
        return v.lora_a * (active * alpha / (b + 1 - positive(b))), v.lora_b

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        if self.last_alone:
            last = self.active(v) - self.active(v, skipped=1)
            v = SimpleNamespace(**vars(v))
            v.lora_a = held_but(v.lora_a, last)
            v.lora_b = held_but(v.lora_b, last[:, None])
        return super().coefficients(v, form, kernel)

    def pruned(self, v: SimpleNamespace, share: float | None) -> dict[str, np.ndarray]:
        return {} if share is None else {"mask": largest(np.arange(self.rank, 0, -1), share)}
