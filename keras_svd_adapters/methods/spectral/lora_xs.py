"""LoRA-XS: a small square matrix between frozen singular vectors.

    K' = K + c A R B      A = U_r diag(s_r),  B = Vt_r,  R (r, r) starts at 0,  c = alpha / r

Balazy et al. 2024, arXiv:2405.17604. The input side holds all singular values, as in the authors'
code. The authors' code starts R at noise of 1e-5 (`init_std`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.hyperparameters import scale_of
from keras_svd_adapters.methods.spectral.core_update import CoreUpdate
from keras_svd_adapters.methods.spectral.triplets import FromTriplets, triplet_arrays


@dataclass(frozen=True, repr=False)
class LoRAXS(CoreUpdate, FromTriplets):
    """LoRA-XS: train `rank ** 2` values per kernel of any size.

    Args:
        rank: Integer, the number of singular triplets. The paper uses 4 to 25
            for encoders and 32 to 64 for language models.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` sets
            alpha to `rank`, for a scale of 1.
        init_std: Float, standard deviation of R at the start. With 0, the model
            starts exactly at the base model.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.LoRAXS(rank=16).trainable_count(384, 1536)
    256

    The paper's learning rates are 2e-3 to 4e-3 for language models and 1e-4 to
    1e-3 on GLUE.

    Reference:
        - [Balazy et al., 2024](https://arxiv.org/abs/2405.17604)
    """

    rank: int = 8
    alpha: float | None = None
    init_std: float = 0.0

    name: ClassVar[str] = "lora_xs"
    linear: ClassVar[dict[str, float]] = {"latent": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.init_std >= 0:
            raise ValueError(f"`init_std` must not be negative. Received: {self.init_std!r}")

    @property
    def scale(self) -> float:
        """The factor `c` before `A R B`."""
        return scale_of(self.alpha, self.rank)

    @property
    def recommended_learning_rate(self) -> float:
        return 4e-3

    @property
    def starts_at_base(self) -> bool:
        return not self.init_std

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r = self.rank
        return {
            "latent": Array((r, r), trainable=True, start=None if self.init_std else 0.0),
            **triplet_arrays(m, n, r),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        r = self.rank
        noise = rng.normal(scale=self.init_std, size=(r, r)) if self.init_std else np.zeros((r, r))
        return {"latent": noise, **super().start(K, form, rng, svd)}

    def middle(self, v: SimpleNamespace) -> Any:
        return self.scale * v.s[:, None] * v.latent
