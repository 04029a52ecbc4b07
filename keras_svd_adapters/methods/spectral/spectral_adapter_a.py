"""Spectral Adapter A: move the largest singular vectors by addition.

    K' = K - U_r diag(s_r) Vt_r + (U_r + X) diag(s_r) (V_r + Y)^T

    X (m, r) and Y (n, r) start at 0

Zhang and Pilanci 2024, arXiv:2405.13952. The code computes the difference as
`[X s, U_r s] [(V_r + Y)^T; Y^T]`, which is 0 at the start. `first` selects other triplets, so that
several adapters can use disjoint ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras_svd_adapters.methods.algebra import concatenate, transpose
from keras_svd_adapters.methods.contract import Array, Kernel
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.spectral.triplets import FromTriplets, triplet_arrays


@dataclass(frozen=True, repr=False)
class SpectralAdapterA(LowRankUpdate, FromTriplets):
    """Additive tuning of the largest singular vectors of a kernel.

    The method trains `rank * (m + n)` values per `(m, n)` kernel.

    Args:
        rank: Integer, the number of singular triplets.
        first: Integer, the index of the first triplet; 0 is the largest.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.SpectralAdapterA(rank=4).trainable_count(384, 1536)
    7680

    Reference:
        - [Zhang and Pilanci, 2024](https://arxiv.org/abs/2405.13952)
    """

    rank: int = 8
    first: int = 0

    name: ClassVar[str] = "spectral_adapter_a"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            "x": Array((m, self.rank), trainable=True, start=0.0, axes="m."),
            "y": Array((n, self.rank), trainable=True, start=0.0, axes="n."),
            **triplet_arrays(m, n, self.rank, "float32"),
        }

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        Yt = transpose(v.y)
        left = concatenate([v.x * v.s, v.U * v.s], axis=1)
        return left, concatenate([v.Vt + Yt, Yt], axis=0)
