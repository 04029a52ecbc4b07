"""DynamicDoRA, DoRA in its paper: single ranks that a schedule prunes by their norm.

    K' = K + c A diag(mask * e) B        A (m, r), B (r, n),  e (r,) starts at 0,  c = alpha / r
    loss + variance_weight * mean over all A, B of the variance of a column of A, a row of B

Mao et al. 2024, arXiv:2405.17357. `DoRA` of this package is another method. A and B start uniform
in +-sqrt(6 / m) and +-sqrt(6 / r). `penalty_weight` is a frozen array that a schedule sets to 0
when the pruning ends, as the authors' code does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import mean, var

from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.gated.gated import Gated


@dataclass(frozen=True, repr=False)
class DynamicDoRA(Gated):
    """Dynamic low-rank adaptation: a sum of ranks; a schedule prunes the smallest.

    The method trains `rank * (m + n) + rank` values per `(m, n)` kernel. A term
    of the loss, averaged over all kernels, keeps the values of a rank even.

    Args:
        rank: Integer, the rank at the start. The scale keeps this rank when
            ranks are pruned. The paper uses 1.5 times
            the rank at the end.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        variance_weight: Float, the weight of the term of the loss.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.DynamicDoRA(rank=4).trainable_count(384, 1536)
    7684

    Reference:
        - [Mao et al., 2024](https://arxiv.org/abs/2405.17357)
    """

    rank: int = 12
    alpha: float | None = 8
    variance_weight: float = 0.1

    name: ClassVar[str] = "dynamic_dora"
    schedule: ClassVar[str] = "DynamicDoRASchedule"

    mean_penalty: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.variance_weight >= 0:
            raise ValueError(
                "`variance_weight` must not be negative; 0 is no term of the loss. "
                f"Received: variance_weight={self.variance_weight!r}"
            )

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        penalty = mean_variance if self.variance_weight else None
        weight = Array((1,), saved=True, start=self.variance_weight)
        return {**self.gated_arrays(m, n, gate=0.0, penalty=penalty), "penalty_weight": weight}

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        (m, n), r = K.shape, self.rank
        of_inputs, of_ranks = sqrt(6 / m), sqrt(6 / r)
        return {
            "lora_a": rng.uniform(-of_inputs, of_inputs, (m, r)),
            "lora_b": rng.uniform(-of_ranks, of_ranks, (r, n)),
        }


def mean_variance(array: Any, v: SimpleNamespace) -> Any:
    """Return the mean of the variances of the columns, unbiased, times the weight of the term."""
    size = array.shape[0]
    return v.penalty_weight[0] * mean(var(array, axis=0)) * (size / max(size - 1, 1))
