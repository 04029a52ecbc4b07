"""EDoRA: a trained length for each output, and LoRA-XS for the direction.

    K' = V f      V = K + c U_r diag(s_r) R Vt_r,  f_j = magnitude_j / |V_:j|,  R starts at 0

Nasiri and Garraghan 2025, arXiv:2501.12067. The authors' code starts R at noise of 1e-5; here it
starts at 0, so that the model starts at the base. `c = alpha / r`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.hyperparameters import scale_of
from keras_svd_adapters.methods.normed_update import NormedUpdate, length_arrays, start_lengths
from keras_svd_adapters.methods.spectral.triplets import FromTriplets, triplet_arrays


@dataclass(frozen=True, repr=False)
class EDoRA(NormedUpdate, FromTriplets):
    """DoRA by `rank ** 2 + n` values per `(m, n)` kernel.

    Args:
        rank: Integer, the number of singular triplets. The paper uses 4 to 32.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1; the paper uses 16.
        detach_norm: Boolean. Whether the gradient treats the norm as a
            constant, as the paper does.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.EDoRA(rank=16).trainable_count(384, 1536)
    1792

    Reference:
        - [Nasiri and Garraghan, 2025](https://arxiv.org/abs/2501.12067)
    """

    rank: int = 32
    alpha: float | None = None
    detach_norm: bool = True

    name: ClassVar[str] = "edora"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r = self.rank
        latent = Array((r, r), trainable=True, start=0.0)
        return {"latent": latent, **length_arrays(n), **triplet_arrays(m, n, r)}

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return super().start(K, form, rng, svd) | start_lengths(K)

    def factors(self, v: SimpleNamespace) -> tuple[Any, Any]:
        core = scale_of(self.alpha, self.rank) * v.s[:, None] * v.latent
        return matmul(v.U, core), v.Vt
