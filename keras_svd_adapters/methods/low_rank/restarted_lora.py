"""RestartedLoRA: a LoRA that begins again from time to time, for a change of higher rank.

    K' = K + c (A diag(mask) B + P Q)        A (m, r), B (r, n) starts at 0,  P (m, R r), Q (R r, n)

    restart i:  P_i <- A diag(mask),  Q_i <- B,  A drawn again,  B <- 0        (the same K')

ReLoRA, Lialin et al. 2023, arXiv:2307.05695; COLA, Xia et al. 2024, arXiv:2401.04151; XGBLoRA,
Zhang et al. 2024, arXiv:2410.19694. The papers add each LoRA to the kernel and forget it. Here the
past factors P and Q are frozen arrays of the adapter: the kernel stays as it is, and the file is
exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.low_rank.past_factors import PastFactors


@dataclass(frozen=True, repr=False)
class RestartedLoRA(PastFactors):
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

    restarts: int = 3

    name: ClassVar[str] = "restarted_lora"
    schedule: ClassVar[str] = "Restarts"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(restarts=self.restarts)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        mask = Array((self.rank,), saved=True, start=1.0)
        return super().arrays(m, n, form) | {"mask": mask}

    def own_factors(self, v: SimpleNamespace) -> tuple[Any, Any]:
        return v.lora_a * v.mask[..., None, :], v.lora_b
