"""MELoRA: small LoRAs side by side, each on a slice of the inputs and of the outputs.

    K' = K + c blockdiag(A_1 B_1, ..., A_g B_g)      A_i (m / g, r), B_i (r, n / g),  c = alpha / r

Ren et al. 2024, arXiv:2402.17263. `lora_a` holds the A_i below each other, `lora_b` the B_i side by
side. Slices follow the order of the kernel as a matrix; a slice is whole heads only if the number
of groups divides the number of heads. Dropout is not offered: the authors draw it for each slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import constant, reshape
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import (
    check_division,
    check_positive_integers,
    check_rank,
)
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate, lora_arrays
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class MELoRA(LowRankUpdate, Ranked):
    """Mini-ensemble of LoRAs: a higher rank by the same number of values.

    The method trains `rank * (m + n)` values per `(m, n)` kernel, and its update
    has the rank `groups * rank`.

    Args:
        rank: Integer, the rank of each small LoRA.
        groups: Integer, the number of small LoRAs. It must divide m and n.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.MELoRA(rank=4, groups=4).trainable_count(384, 1536)
    7680

    Reference:
        - [Ren et al., 2024](https://arxiv.org/abs/2402.17263)
    """

    rank: int = 8
    groups: int = 4
    alpha: float | None = None

    name: ClassVar[str] = "melora"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(groups=self.groups)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def check(self, m: int, n: int) -> None:
        check_division("groups", self.groups, m=m, n=n)
        check_rank(self.rank, m // self.groups, n // self.groups)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return lora_arrays(m, n, self.rank)

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        bound = sqrt(self.groups / len(K))
        return {"lora_a": rng.uniform(-bound, bound, (len(K), self.rank))}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        (m, r), n, g = v.lora_a.shape, v.lora_b.shape[1], self.groups
        own: np.ndarray = np.eye(g, dtype="float32")  # 1 where a slice meets its own part
        left = reshape(v.lora_a, (g, m // g, 1, r)) * constant(own[:, None, :, None], v.lora_a)
        right = reshape(v.lora_b, (1, r, g, n // g)) * constant(own[:, None, :, None], v.lora_b)
        return self.scale * reshape(left, (m, g * r)), reshape(right, (g * r, n))
