"""PRILoRA: LoRA whose A is pruned by its size and by that of its input.

    K' = K + c (M_A * A) B        A (m, r), B (r, n) starts at 0,  c = alpha / r

Benedek and Wolf 2024, arXiv:2401.11316. A schedule keeps, in each column of A, the values with the
highest |A_ij| |x_i|. The paper follows the norms |x_i| of the inputs in training; here, data that
passes the model before the start shows them, without padding. Ranks grow with the depth by
`rank_by_depth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.sparse.masked_lora import MaskedLoRA
from keras_svd_adapters.methods.statistics import Statistics


@dataclass(frozen=True, repr=False)
class PRILoRA(MaskedLoRA):
    """Pruned and rank-increasing low-rank adaptation: a sparse `A`.

    The method trains `rank * (m + n)` values per `(m, n)` kernel. Of those of
    `A`, a `PRILoRASchedule` keeps the part `share`. `enable` reads the norms of
    the inputs from `calibrate`; `ksa.rank_by_depth` gives deeper layers a
    larger rank.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        share: Float in (0, 1], the part of the values of each column of A that
            is kept at the end.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.PRILoRA(rank=4).trainable_count(384, 1536)
    7680

    Reference:
        - [Benedek and Wolf, 2024](https://arxiv.org/abs/2401.11316)
    """

    rank: int = 8
    alpha: float | None = None
    share: float = 0.5

    name: ClassVar[str] = "prilora"
    schedule: ClassVar[str] = "PRILoRASchedule"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    @property
    def needs(self) -> tuple[str, ...]:
        return ("magnitudes",)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        every = super().arrays(m, n, form)
        kept = {name: every[name] for name in ("lora_a", "lora_b", "mask_a")}
        return kept | {"input_norms": Array((m,), saved=True, axes="m")}

    def first_values(
        self, K: np.ndarray, form: str, rng: Any, svd: SVD | None, data: Statistics
    ) -> dict[str, np.ndarray]:
        assert data.magnitudes is not None
        return self.start(K, form, rng, svd) | {"input_norms": np.sqrt(data.magnitudes.square)}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        return self.scale * v.lora_a * v.mask_a, v.lora_b
