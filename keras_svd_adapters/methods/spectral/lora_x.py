"""LoRA-X: an update between the largest singular vectors of the base.

    K' = K + U_r D Vt_r        D (r, r), or diagonal, starts at 0

Farhadzadeh et al. 2025, arXiv:2501.16559. We know the paper by its summary: whether D is full or
diagonal is a choice here, `core`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import constant
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.spectral.core_update import CoreUpdate
from keras_svd_adapters.methods.spectral.triplets import FromTriplets, triplet_arrays

CORES = ("full", "diagonal")


@dataclass(frozen=True, repr=False)
class LoRAX(CoreUpdate, FromTriplets):
    """Update confined to the subspace of the largest singular vectors.

    The method trains `rank ** 2` values per kernel of any size, or `rank` with a
    diagonal core.

    Args:
        rank: Integer, the number of singular triplets.
        core: `"full"` or `"diagonal"`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.LoRAX(rank=16).trainable_count(384, 1536)
    256

    Reference:
        - [Farhadzadeh et al., 2025](https://arxiv.org/abs/2501.16559)
    """

    rank: int = 8
    core: str = "full"

    name: ClassVar[str] = "lora_x"
    linear: ClassVar[dict[str, float]] = {"latent": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.core not in CORES:
            raise ValueError(f"`core` must be one of {CORES}. Received: core={self.core!r}")

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r = self.rank
        shape = (r, r) if self.core == "full" else (r,)
        return {
            "latent": Array(shape, trainable=True, start=0.0),
            **triplet_arrays(m, n, r),
        }

    def middle(self, v: SimpleNamespace) -> Any:
        if self.core == "full":
            return v.latent
        return v.latent * constant(np.eye(self.rank), v.latent)
