"""RoseLoRA: LoRA whose rank vectors are sparse.

    K' = K + c (M_A * A) (M_B * B)        A (m, r), B (r, n) starts at 0,  c = alpha / r

Wang et al. 2024, arXiv:2406.10777. A schedule keeps, in each column of A and in each row of B, the
part of the values to which the loss is most sensitive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keras_svd_adapters.methods.sparse.masked_lora import MaskedLoRA


@dataclass(frozen=True, repr=False)
class RoseLoRA(MaskedLoRA):
    """Row- and column-wise sparse low-rank adaptation: few entries of the kernel change.

    The method trains `rank * (m + n)` values per `(m, n)` kernel. A
    `RoseLoRASchedule` keeps the part `share` of them.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        share: Float in (0, 1], the part of the values of each rank that is kept
            at the end.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.RoseLoRA(rank=4).trainable_count(384, 1536)
    7680

    Reference:
        - [Wang et al., 2024](https://arxiv.org/abs/2406.10777)
    """

    rank: int = 8
    alpha: float | None = 32
    share: float = 0.05

    name: ClassVar[str] = "roselora"
    schedule: ClassVar[str] = "RoseLoRASchedule"

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3
