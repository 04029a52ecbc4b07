"""MiLoRA: the smallest singular values train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from keras_svd_adapters.methods.low_rank.pissa import PiSSA


@dataclass(frozen=True, repr=False)
class MiLoRA(PiSSA):
    """Minor singular components adaptation: LoRA on the smallest singular triplets.

    Trains `rank * (m + n)` values per `(m, n)` kernel and leaves what the
    kernel knows best alone. Triplets of value zero never move: choose a
    smaller rank for a kernel that was pruned or merged.

    Args:
        rank: Integer, the number of triplets. The paper uses 32 and 64.
        alpha: Float, numerator of the scale `c = alpha / rank`; the paper has
            `alpha = rank`, which `None` means.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.MiLoRA(rank=4).trainable_count(384, 1536)
    7680

    The paper's rate is 3e-4, without weight decay (left off here).

    Reference:
        - [Wang et al., 2024](https://arxiv.org/abs/2406.09044)
    """

    svd: str = field(default="exact", init=False)  # only the largest come cheaply
    oversampling: int = field(default=8, init=False)
    seed: int = field(default=0, init=False)

    name: ClassVar[str] = "milora"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-4

    def triplets(self, k: int) -> slice:
        return slice(k - self.rank, k)
