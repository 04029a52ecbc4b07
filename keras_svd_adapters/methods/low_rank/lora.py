"""LoRA and rsLoRA.

    K' = K + c A B        A (m, r), B (r, n),  c = alpha / r,  rsLoRA: alpha / sqrt(r)

Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732. As in HF PEFT, `A` starts
uniform in +-1/sqrt(m) and `B` at zero, by default; for an embedding, `A` at zero and `B` normal.
`K` is the kernel as a matrix, so the heads of an attention kernel share one rank. Keras's own
`enable_lora` differs in this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar

import numpy as np

from keras_svd_adapters.methods.low_rank.data_starts import STARTS
from keras_svd_adapters.methods.low_rank.rank_allocation import check_rho, ranks_by_variance
from keras_svd_adapters.methods.low_rank.started_product import StartedProduct
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.statistics import Statistics


@dataclass(frozen=True, repr=False)
class LoRA(StartedProduct):
    """Low-rank adaptation: add `c A B`, a product of two thin matrices.

    The method trains `rank * (m + n)` values per `(m, n)` kernel.

    Args:
        rank: Integer, the rank of the update. Papers use 4 to 64.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` sets
            alpha to `rank`, for a scale of 1. Unless alpha is set, changing the
            rank also changes the update step.
        rslora: Boolean. Whether to scale by `alpha / sqrt(rank)` instead.
        dropout: Float in [0, 1), the dropout rate for the input of the branch
            only. An embedding has no dropout.
        start: How the factors start: `"kaiming"`, `"gaussian"`, `"init_b"`,
            `"orthonormal"`, `"orthogonal"`, `"olora"` or `"nystrom"`; from data
            that `enable` reads as `calibrate`: `"corda"`, `"corda_kpm"`,
            `"eva"` or `"lora_ga"`. At each start, the model equals its base.
        freeze: `"a"` or `"b"` to train the other factor alone (LoRA-FA;
            Asymmetric LoRA with `start="orthonormal"`).
        seed: Integer, the seed of a frozen random factor: the same numbers in
            each adapter, so that adapters of several tasks add up exactly.
        rho: Float from 1, for `start="eva"`. `enable` moves ranks to kernels whose
            inputs vary in fewer directions, which get up to `rho * rank`. Others
            get fewer, or no adapter. Their sum and the scale `c` stay. The paper
            uses 2.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> method = keras_svd_adapters.LoRA(rank=4)
    >>> method.trainable_count(384, 1536)
    7680

    Reference:
        - [Hu et al., 2021](https://arxiv.org/abs/2106.09685)
        - [Kalajdzievski, 2023](https://arxiv.org/abs/2312.03732)
        - [Zhang et al., 2023 (LoRA-FA)](https://arxiv.org/abs/2308.03303)
    """

    rho: float = 1.0

    name: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rho(self.rho, self.start)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    @property
    def components(self) -> int:
        return round(self.rho * self.rank)

    def of_product(self, left: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray] | None:
        room = self.rank - left.shape[1]
        if room < 0 or STARTS[self.start].zero is None:
            return None
        a, b = np.pad(left, ((0, 0), (0, room))), np.pad(right, ((0, room), (0, 0)))
        return {"lora_a": a, "lora_b": b / self.scale}

    def allocated(
        self, shapes: list[tuple[int, int]], data: list[list[Statistics]]
    ) -> list[Method | None]:
        if self.rho == 1:
            return super().allocated(shapes, data)
        most = [min(self.components, *shape) for shape in shapes]
        ranks = ranks_by_variance(data, most, len(shapes) * self.rank)
        return [self._of_rank(rank) if rank else None for rank in ranks]

    def _of_rank(self, rank: int) -> LoRA:
        """Return the method with another rank and the same scale."""
        is_one = self.alpha is None and not self.rslora  # for each rank
        alpha = None if is_one else self.scale * (sqrt(rank) if self.rslora else rank)
        return replace(self, rank=rank, alpha=alpha, rho=1.0)
