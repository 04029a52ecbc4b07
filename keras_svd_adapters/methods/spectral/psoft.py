"""PSOFT: rotate and scale within the largest singular vectors.

    K' = K + U_r (diag(a) R diag(b) - I) diag(s_r) Vt_r

    R = (I - S)(I + S)^-1,  S (r, r) skew-symmetric, starts at 0,  a and b (r,) start at 1

Wu et al. 2025, arXiv:2505.11235. All singular values stand on the side of the outputs, as in HF
PEFT; the paper's text has square roots on both sides. A scale `alpha / r` would cancel, so there is
none. The update is orthogonal only while a and b are 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import constant
from keras_svd_adapters.methods.cayley import cayley_change, skew_count
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.spectral.core_update import CoreUpdate
from keras_svd_adapters.methods.spectral.triplets import FromTriplets, triplet_arrays


@dataclass(frozen=True, repr=False)
class PSOFT(CoreUpdate, FromTriplets):
    """Orthogonal fine-tuning in the principal subspace of a kernel.

    The method trains `rank (rank - 1) / 2 + 2 rank` values per kernel of any
    size.

    Args:
        rank: Integer, the number of singular triplets.

    Raises:
        ValueError: If `rank` is out of its range.

    Example:

    >>> keras_svd_adapters.methods.PSOFT(rank=16).trainable_count(384, 1536)
    152

    Reference:
        - [Wu et al., 2025](https://arxiv.org/abs/2505.11235)
    """

    rank: int = 32

    name: ClassVar[str] = "psoft"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        ones = Array((self.rank,), trainable=True, start=1.0)
        skew = Array((skew_count(self.rank),), trainable=True, start=0.0)
        return {"skew": skew, "vec_a": ones, "vec_b": ones} | triplet_arrays(m, n, self.rank)

    def middle(self, v: SimpleNamespace) -> Any:
        a, b, change = v.vec_a, v.vec_b, cayley_change(v.skew, self.rank)
        return ((a * b - 1) * constant(np.eye(self.rank), a) + a[:, None] * change * b) * v.s
