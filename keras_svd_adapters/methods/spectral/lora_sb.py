"""LoRA-SB: LoRA-XS between the singular vectors of the first step of full fine-tuning.

    K' = K + U_r R Vt_r        D = -step sign(G) = U diag(s) Vt,  R (r, r) starts at diag(s_r)

Ponkshe et al. 2024, arXiv:2411.19557. G is the gradient of the kernel, so that D is about Adam's
first step. R starts at the best approximation of D, not at the base model, and U and Vt are frozen.
The authors' code takes `step = learning_rate / (warmup_ratio * steps)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.hyperparameters import (
    check_positive,
    check_positive_integers,
    check_rank,
)
from keras_svd_adapters.methods.spectral.core_update import CoreUpdate
from keras_svd_adapters.methods.statistics import Statistics


@dataclass(frozen=True, repr=False)
class LoRASB(CoreUpdate):
    """LoRA-XS that starts one approximate step of full fine-tuning away from the base.

    The method trains `rank ** 2` values per kernel. It reads gradients: `enable` needs
    `calibrate=(x, y)` with about a hundred samples, and a compiled model. The
    file stores `rank * (m + n)` frozen values per kernel as well.

    Args:
        rank: Integer, the number of singular triplets of the step. The paper
            uses 32 to 96.
        step: Float, the size of the step for each entry of the kernel: the
            learning rate of full fine-tuning, divided by the number of steps of
            its warm-up.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.LoRASB(rank=96).trainable_count(384, 1536)
    9216

    Reference:
        - [Ponkshe et al., 2024](https://arxiv.org/abs/2411.19557)
    """

    rank: int = 96
    step: float = 1e-5

    name: ClassVar[str] = "lora_sb"
    linear: ClassVar[dict[str, float]] = {"latent": 0.0}

    def __post_init__(self) -> None:
        check_positive_integers(rank=self.rank)
        check_positive(step=self.step)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3

    @property
    def needs(self) -> tuple[str, ...]:
        return ("gradient",)

    @property
    def starts_at_base(self) -> bool:
        return False

    def check(self, m: int, n: int) -> None:
        check_rank(self.rank, m, n)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r = self.rank
        return {
            "latent": Array((r, r), trainable=True),
            "U": Array((m, r), dtype="compute", saved=True, axes="m."),
            "Vt": Array((r, n), dtype="compute", saved=True, axes=".n"),
        }

    def first_values(
        self, K: np.ndarray, form: str, rng: Any, svd: SVD | None, data: Statistics
    ) -> dict[str, np.ndarray]:
        assert data.gradient is not None
        U, s, Vt = np.linalg.svd(-self.step * np.sign(data.gradient), full_matrices=False)
        r = self.rank
        return {"latent": np.diag(s[:r]), "U": U[:, :r], "Vt": Vt[:r]}

    def middle(self, v: SimpleNamespace) -> Any:
        return v.latent
