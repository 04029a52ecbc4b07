"""NoRA, nested: LoRA-XS whose small matrix is itself of low rank.

    K' = K + U_r diag(s_r) A B Vt_r        A (r, q), B (q, r) starts at 0

Lin et al. 2024, arXiv:2408.10280. We know the paper by its summary: the place of the singular
values, as in LoRA-XS, and the start of B are choices here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.spectral.core_update import CoreUpdate
from keras_svd_adapters.methods.spectral.triplets import FromTriplets, triplet_arrays


@dataclass(frozen=True, repr=False)
class NestedLoRAXS(CoreUpdate, FromTriplets):
    """Nested low-rank adaptation: two thin matrices between singular vectors.

    The method trains `2 rank * inner_rank` values per kernel of any size.

    Args:
        rank: Integer, the number of singular triplets.
        inner_rank: Integer, the rank of the matrix between them.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.NestedLoRAXS(rank=32, inner_rank=4).trainable_count(384, 1536)
    256

    Reference:
        - [Lin et al., 2024](https://arxiv.org/abs/2408.10280)
    """

    rank: int = 32
    inner_rank: int = 8

    name: ClassVar[str] = "nested_lora_xs"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(inner_rank=self.inner_rank)
        if self.inner_rank > self.rank:
            raise ValueError(
                f"`inner_rank` can be {self.rank} at the most, which is `rank`. "
                f"Received: inner_rank={self.inner_rank}"
            )

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r, q = self.rank, self.inner_rank
        return {
            "latent_a": Array((r, q), trainable=True),
            "latent_b": Array((q, r), trainable=True, start=0.0),
            **triplet_arrays(m, n, r),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        noise = kaiming(rng, (self.rank, self.inner_rank))
        return {"latent_a": noise, **super().start(K, form, rng, svd)}

    def middle(self, v: SimpleNamespace) -> Any:
        return v.s[:, None] * matmul(v.latent_a, v.latent_b)
