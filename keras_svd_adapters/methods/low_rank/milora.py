"""MiLoRA: LoRA that starts at the smallest singular triplets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from keras_svd_adapters.methods.low_rank.pissa import PiSSA


@dataclass(frozen=True, repr=False)
class MiLoRA(PiSSA):
    """Minor singular components adaptation: LoRA on the smallest singular triplets.

    The method trains `rank * (m + n)` values per `(m, n)` kernel. The factors
    exclude the largest triplets, which hold most of what the kernel has
    learned. Triplets with a singular value of zero never train: choose a
    larger rank for a kernel that was pruned or merged and has many of these.

    Args:
        rank: Integer, the number of triplets. The paper uses 32 and 64.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` sets
            alpha to `rank`, as in the paper.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.MiLoRA(rank=4).trainable_count(384, 1536)
    7680

    The paper's learning rate is 3e-4, without weight decay. This package also
    applies no weight decay to the factors.

    Reference:
        - [Wang et al., 2024](https://arxiv.org/abs/2406.09044)
    """

    svd: str = field(default="exact", init=False)  # truncation finds the largest only
    oversampling: int = field(default=8, init=False)
    seed: int = field(default=0, init=False)

    name: ClassVar[str] = "milora"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def triplets(self, k: int) -> slice:
        return slice(k - self.rank, k)
