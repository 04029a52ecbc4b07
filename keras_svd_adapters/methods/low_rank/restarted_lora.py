"""RestartedLoRA: a LoRA that begins again from time to time, for a change of higher rank.

    K' = K + c A diag(mask) B + P Q        A (m, r), B (r, n) starts at 0,  P (m, R r), Q (R r, n)

    restart i:  P_i <- c A diag(mask),  Q_i <- B,  A drawn again,  B <- 0        (the same K')

ReLoRA, Lialin et al. 2023, arXiv:2307.05695; COLA, Xia et al. 2024, arXiv:2401.04151; XGBLoRA,
Zhang et al. 2024, arXiv:2410.19694. The papers add each LoRA to the kernel and forget it. Here the
past factors P and Q are frozen arrays of the adapter: the kernel stays as it is, and the file is
exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import concatenate
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class RestartedLoRA(LowRankUpdate, Ranked):
    """Low-rank adaptation with restarts: the whole update has rank `(restarts + 1) rank`.

    The method trains `rank * (m + n)` values per `(m, n)` kernel at a time, and
    computes as long as a LoRA of rank `(restarts + 1) * rank`. The callback
    `Restarts` begins again.

    Args:
        rank: Integer, the rank that trains at a time.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        restarts: Integer, the largest number of restarts.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.RestartedLoRA(rank=4).trainable_count(384, 1536)
    7680

    Reference:
        - [Lialin et al., 2023 (ReLoRA)](https://arxiv.org/abs/2307.05695)
        - [Xia et al., 2024 (COLA)](https://arxiv.org/abs/2401.04151)
        - [Zhang et al., 2024 (XGBLoRA)](https://arxiv.org/abs/2410.19694)
    """

    rank: int = 8
    alpha: float | None = None
    restarts: int = 3

    name: ClassVar[str] = "restarted_lora"
    schedule: ClassVar[str] = "Restarts"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(restarts=self.restarts)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r, past = self.rank, self.rank * self.restarts
        return {
            "lora_a": Array((m, r), trainable=True, axes="m."),
            "lora_b": Array((r, n), trainable=True, start=0.0, axes=".n"),
            "mask": Array((r,), saved=True, start=1.0),
            "past_a": Array((m, past), saved=True, start=0.0, axes="m."),
            "past_b": Array((past, n), saved=True, start=0.0, axes=".n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"lora_a": kaiming(rng, (len(K), self.rank))}

    def did_restart(self, v: SimpleNamespace, time: int) -> bool:
        """Return whether restart `time` took place: its past factors are there."""
        return bool(np.any(v.past_b[..., time * self.rank : (time + 1) * self.rank, :]))

    def restarted(
        self, v: SimpleNamespace, time: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Return the arrays after restart `time`, on the host; the first one has number 0."""
        part = slice(time * self.rank, (time + 1) * self.rank)
        past_a, past_b = v.past_a.copy(), v.past_b.copy()
        past_a[..., part] = self.scale * v.lora_a * v.mask[..., None, :]
        past_b[..., part, :] = v.lora_b
        fresh = {"lora_a": kaiming(rng, v.lora_a.shape), "lora_b": np.zeros_like(v.lora_b)}
        return {"past_a": past_a, "past_b": past_b, **fresh}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        left = concatenate([self.scale * v.lora_a * v.mask, v.past_a], axis=1)
        return left, concatenate([v.lora_b, v.past_b], axis=0)
