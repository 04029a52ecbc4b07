"""TinyLoRA: a few values for the whole model, between the largest singular vectors.

    K' = K + U_r diag(sqrt(s_r)) R diag(sqrt(s_r)) Vt_r        R = sum_i latent_i P_i

Implemented as HF PEFT describes it. P_i (r, r) is random, N(0, 1 / r), and frozen. All kernels of
an adapter read one `latent`, of size `values`, which starts at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_svd_adapters.methods.algebra import matmul, reshape
from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.spectral.core_update import CoreUpdate
from keras_svd_adapters.methods.spectral.triplets import FromTriplets, triplet_arrays


@dataclass(frozen=True, repr=False)
class TinyLoRA(CoreUpdate, FromTriplets):
    """The fewest trained values: all kernels of an adapter train one vector.

    Each kernel turns the vector into its own update through frozen random
    matrices, `values * rank ** 2` numbers that the adapter file stores.

    Args:
        rank: Integer, the number of singular triplets.
        values: Integer, the number of trained values of the whole adapter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.TinyLoRA(values=13).trainable_count(384, 1536)
    13
    """

    rank: int = 2
    values: int = 64

    name: ClassVar[str] = "tiny_lora"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(values=self.values)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    @property
    def tied(self) -> tuple[str, ...]:
        return ("latent",)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            "latent": Array((self.values,), trainable=True, start=0.0),
            "random": Array((self.rank**2, self.values), saved=True),
            **triplet_arrays(m, n, self.rank),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        random = rng.normal(0, self.rank**-0.5, (self.rank**2, self.values))
        return super().start(K, form, rng, svd) | {"random": random.astype("float32")}

    def middle(self, v: SimpleNamespace) -> Any:
        R = reshape(matmul(v.random, v.latent[:, None]), (self.rank, self.rank))
        root = ops.sqrt(v.s)
        return root[:, None] * R * root
