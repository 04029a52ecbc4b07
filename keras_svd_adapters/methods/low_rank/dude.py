"""DuDe: a trained length for each output, and PiSSA for the direction.

    K' = V f      V = K + c (A B - A0 B0),  f_j = magnitude_j / |V_:j|

Han et al. 2025, arXiv:2505.14367. A and B start at the largest singular triplets, as in PiSSA. The
scale `c = alpha / r` is LoRA's. We know the paper by its summary.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.low_rank.pissa import start_at
from keras_svd_adapters.methods.low_rank.started_factors import difference, factor_arrays
from keras_svd_adapters.methods.normed_update import NormedUpdate, length_arrays, start_lengths
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class DuDe(NormedUpdate, Ranked):
    """Dual decomposition: DoRA that starts at the largest singular triplets.

    The method trains `rank * (m + n) + n` values per `(m, n)` kernel.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        detach_norm: Boolean. Whether the gradient treats the norm as a
            constant.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.DuDe(rank=4).trainable_count(384, 1536)
    9216

    Reference:
        - [Han et al., 2025](https://arxiv.org/abs/2505.14367)
    """

    rank: int = 8
    alpha: float | None = None
    detach_norm: bool = True

    name: ClassVar[str] = "dude"
    needs_svd: ClassVar[bool] = True

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        factors = factor_arrays(m, n, self.rank, zero=None, frozen=None)
        return factors | length_arrays(n)

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        assert svd is not None
        part = svd.part(slice(0, self.rank))
        return start_at(part, self.scale) | start_lengths(K)

    def factors(self, v: SimpleNamespace) -> tuple[Any, Any]:
        left, right = difference(v)
        return self.scale * left, right
