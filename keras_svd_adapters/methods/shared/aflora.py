"""AFLoRA: VeRA's vectors around factors that train first and freeze one after the other.

    K' = K + A diag(d) B diag(v)        A (m, r), B (r, n),  d (r,),  v (n,) starts at 0

Liu et al. 2024, arXiv:2403.13269. `mask_a` and `mask_b` are 1 while A and B train; a schedule sets
them to 0. A and B start uniform in +-1/sqrt(m) and +-1/sqrt(r).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import held_but
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class AFLoRA(LowRankUpdate, Ranked):
    """Adaptive freezing of low-rank adaptation: only two vectors per kernel train to the end.

    The method trains `rank * (m + n) + rank + n` values per `(m, n)` kernel. An
    `AFLoRASchedule` freezes the matrices one by one, until `rank + n` are left.

    Args:
        rank: Integer, the rank of the update.
        d_initial: Float, the start of the vector between the two matrices.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.AFLoRA(rank=4).trainable_count(384, 1536)
    9220

    Reference:
        - [Liu et al., 2024](https://arxiv.org/abs/2403.13269)
    """

    rank: int = 4
    d_initial: float = 0.1

    name: ClassVar[str] = "aflora"
    schedule: ClassVar[str] = "AFLoRASchedule"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_initial == 0 or not isfinite(self.d_initial):
            raise ValueError(
                "`d_initial` must be a finite number other than zero: at zero, no value would ever "
                f"change. Received: d_initial={self.d_initial!r}"
            )

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r = self.rank
        return {
            "lora_a": Array((m, r), trainable=True, axes="m."),
            "lora_b": Array((r, n), trainable=True, axes=".n"),
            "d": Array((r,), trainable=True, start=self.d_initial),
            "v": Array((n,), trainable=True, start=0.0, axes="n"),
            "mask_a": Array((1,), saved=True, start=1.0),
            "mask_b": Array((1,), saved=True, start=1.0),
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
        A, B = held_but(v.lora_a, v.mask_a), held_but(v.lora_b, v.mask_b)
        return A * v.d, B * v.v
