"""Delta-LoRA: LoRA whose kernel follows the change of the product.

    K' = K + c A B + l c (A B - A0 B0)        A0 B0: the product at step T0,  l = 0 before T0

Zi et al. 2023, arXiv:2309.02411. The paper adds `l c (A_{t+1} B_{t+1} - A_t B_t)` to the kernel
after each step from T0 on. This sum is `l c (A B - A0 B0)`, so that the kernel need not change. The
paper's gradients of A and B do not see the factor 1 + l. With T0 = 0 and Adam, Delta-LoRA is a LoRA
whose alpha is `(1 + l) alpha`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import concatenate, held_but
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import check_positive
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate, lora_arrays
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class DeltaLoRA(LowRankUpdate, Ranked):
    """LoRA with a kernel that takes part in the change: an update of twice the rank.

    The method trains `rank * (m + n)` values per `(m, n)` kernel. It is LoRA
    until the callback `Restarts(every=T0)` sets A0, B0 and l at step T0.

    Args:
        rank: Integer, the rank of the product.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        strength: Float, the factor l of the kernel's change.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.DeltaLoRA(rank=4).trainable_count(384, 1536)
    7680

    Reference:
        - [Zi et al., 2023](https://arxiv.org/abs/2309.02411)
    """

    rank: int = 8
    alpha: float | None = None
    strength: float = 2.0

    name: ClassVar[str] = "delta_lora"
    schedule: ClassVar[str] = "Restarts"
    restarts: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(strength=self.strength)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r = self.rank
        return {
            **lora_arrays(m, n, r),
            "past_a": Array((m, r), saved=True, start=0.0, axes="m."),
            "past_b": Array((r, n), saved=True, start=0.0, axes=".n"),
            "follows": Array((1,), saved=True, start=0.0),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"lora_a": kaiming(rng, (len(K), self.rank))}

    def did_restart(self, v: SimpleNamespace, time: int) -> bool:
        return bool(np.any(v.follows))

    def restarted(
        self, v: SimpleNamespace, time: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        return {"past_a": v.lora_a, "past_b": v.lora_b, "follows": np.ones_like(v.follows)}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        followed = self.strength * v.follows
        c, seen = self.scale, 1 / (1 + followed)
        A, B = held_but(v.lora_a, seen), held_but(v.lora_b, seen)
        left = concatenate([c * (1 + followed) * A, -c * followed * v.past_a], axis=1)
        return left, concatenate([B, v.past_b], axis=0)
