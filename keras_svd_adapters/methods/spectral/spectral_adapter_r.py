"""Spectral Adapter R: rotate the largest singular vectors among themselves.

    K' = K + U_r (C(X) diag(s_r e) C(Y)^T - diag(s_r)) Vt_r

    C(X) = (I - X)(I + X)^-1,  X and Y (r, r) skew-symmetric, start at 0,  e (r,) starts at 1

Zhang and Pilanci 2024, arXiv:2405.13952. X and Y are stored as strict upper triangles, so that the
method trains the r^2 values that have an effect, where the authors' code stores 2 r^2 + r. `first`
selects other triplets, so that several adapters can use disjoint ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import constant, matmul, transpose
from keras_svd_adapters.methods.cayley import cayley_change, skew_count
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.spectral.core_update import CoreUpdate
from keras_svd_adapters.methods.spectral.triplets import FromTriplets, triplet_arrays


@dataclass(frozen=True, repr=False)
class SpectralAdapterR(CoreUpdate, FromTriplets):
    """Orthogonal tuning of the largest singular vectors of a kernel.

    The method trains `rank ** 2` values per kernel of any size.

    Args:
        rank: Integer, the number of singular triplets.
        first: Integer, the index of the first triplet; 0 is the largest.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.SpectralAdapterR(rank=16).trainable_count(384, 1536)
    256

    Reference:
        - [Zhang and Pilanci, 2024](https://arxiv.org/abs/2405.13952)
    """

    rank: int = 8
    first: int = 0

    name: ClassVar[str] = "spectral_adapter_r"

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        skew = Array((skew_count(self.rank),), trainable=True, start=0.0)
        scaling = Array((self.rank,), trainable=True, start=1.0)
        trained = {"skew_x": skew, "skew_y": skew, "scaling": scaling}
        return trained | triplet_arrays(m, n, self.rank)

    def middle(self, v: SimpleNamespace) -> Any:
        X, Yt = cayley_change(v.skew_x, self.rank), transpose(cayley_change(v.skew_y, self.rank))
        left, scaled = X * (v.s * v.scaling), (v.s * v.scaling)[:, None]
        diagonal = v.s * (v.scaling - 1) * constant(np.eye(self.rank), v.s)
        return diagonal + left + scaled * Yt + matmul(left, Yt)
