"""FourierFT: a few trained coefficients of the update's discrete Fourier transform.

    K'_uv = K_uv + scale / (m n) sum_j c_j cos(2 pi (q_j u / m + p_j v / n))        c starts at 0

Gao et al. 2024, arXiv:2405.03003. The real part of the inverse transform of a matrix with
coefficients at random distinct places. As a product, cos(a + b) = cos a cos b - sin a sin b. The
seed gives the places of HF PEFT, which PyTorch draws. The file has them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import cast, cos, sin

from keras_svd_adapters.methods.algebra import concatenate
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import check_positive, check_positive_integers
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.torch_permutation import first_of_permutation


@dataclass(frozen=True, repr=False)
class FourierFT(LowRankUpdate):
    """Fourier transform fine-tuning: as many values per kernel as you choose.

    The method trains `count` values per kernel of any size. A step makes tables
    of `2 count (m + n)` values, so it costs as much as a LoRA of rank `2 count`,
    or one product of these tables if there are many tokens.

    Args:
        count: Integer, the number of trained coefficients.
        scale: Float, the factor before the update.
        seed: Integer, the seed of the places of the coefficients. The places
            are those of HF PEFT's `random_loc_seed`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.FourierFT(count=500).trainable_count(384, 1536)
    500

    Reference:
        - [Gao et al., 2024](https://arxiv.org/abs/2405.03003)
    """

    count: int = 1000
    scale: float = 150.0
    seed: int = 777

    name: ClassVar[str] = "fourier_ft"
    linear: ClassVar[dict[str, float]] = {"coefficients": 0.0}

    def __post_init__(self) -> None:
        check_positive_integers(count=self.count)
        check_positive(scale=self.scale)
        if not isinstance(self.seed, int):
            raise ValueError(f"`seed` must be an integer. Received: seed={self.seed!r}")

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-2

    def check(self, m: int, n: int) -> None:
        if self.count > m * n:
            raise ValueError(
                f"A kernel of shape ({m}, {n}) has {m * n} coefficients; use `count={m * n}` or "
                f"less. Received: count={self.count}"
            )

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            "coefficients": Array((self.count,), trainable=True, start=0.0),
            "places": Array((self.count, 2), dtype="int32", saved=True),
            "row": Array((m,), dtype="int32", axes="m"),
            "column": Array((n,), dtype="int32", axes="n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        m, n = K.shape
        column, row = np.divmod(first_of_permutation(m * n, self.count, self.seed), m)
        places = np.stack([row, column], axis=1)
        return {"places": places, "row": np.arange(m), "column": np.arange(n)}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        m, n = v.row.shape[0], v.column.shape[0]
        a = self.angles(v.row[:, None] * v.places[:, 0], m)
        b = self.angles(v.places[:, 1:] * v.column, n)
        c = self.scale / (m * n) * v.coefficients
        return concatenate([c * cos(a), -c * sin(a)], 1), concatenate([cos(b), sin(b)], 0)

    def angles(self, turns: Any, size: int) -> Any:
        """Return `2 pi turns / size`, exact for whole turns."""
        return cast(turns % size, "float32") * (2 * pi / size)

    low_rank = Method.low_rank  # the rank is as high as that of the kernel
