"""AllocatingLoRA, ALoRA in its paper: ranks that move from one kernel to another.

    K' = K + c A diag(mask * e) B        A (m, q), B (q, n),  q = r + spare,  c = alpha / r

Liu et al. 2024, arXiv:2403.16187. HF PEFT's "aLoRA", activated LoRA, is another method. B starts at
0, and e at 1. The mask is 1 for the first r ranks and 0 for the spare ones, which a schedule can
turn on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.gated.gated import Gated
from keras_svd_adapters.methods.hyperparameters import check_rank
from keras_svd_adapters.methods.kaiming import kaiming


@dataclass(frozen=True, repr=False)
class AllocatingLoRA(Gated):
    """Low-rank adaptation whose ranks can move to the kernels that need them.

    The method trains `(rank + spare) * (m + n + 1)` values per `(m, n)` kernel.
    An `AllocatingLoRASchedule` turns ranks off to see how much worse the model
    gets, and moves those that matter least to other kernels. Without one, the
    first ranks train and the spare ones stay off.

    Args:
        rank: Integer, the rank of the update at the start.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        spare: Integer, the number of ranks that a kernel can get in addition.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.AllocatingLoRA(rank=4).trainable_count(384, 1536)
    7684

    Reference:
        - [Liu et al., 2024](https://arxiv.org/abs/2403.16187)
    """

    rank: int = 8
    alpha: float | None = None
    spare: int = 0

    name: ClassVar[str] = "allocating_lora"
    schedule: ClassVar[str] = "AllocatingLoRASchedule"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.spare) is not int or self.spare < 0:
            raise ValueError(f"`spare` must be an integer from 0. Received: spare={self.spare!r}")

    def check(self, m: int, n: int) -> None:
        check_rank(self.rank + self.spare, m, n)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        arrays = self.gated_arrays(m, n, gate=1.0, b=0.0, spare=self.spare)
        if self.spare:
            arrays["mask"] = arrays["mask"]._replace(start=None)
        return arrays

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        ranks = self.rank + self.spare
        return {"lora_a": kaiming(rng, (len(K), ranks)), "mask": np.arange(ranks) < self.rank}
