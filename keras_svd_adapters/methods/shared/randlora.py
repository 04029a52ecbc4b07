"""RandLoRA: a sum of random low-rank matrices that share their frozen factors, of full rank.

    K' = K + c sum_j B_j diag(lam_j) A diag(gam_j)        A (r, k), B_j (l, r),  c = alpha / r

    k = min(m, n),  l = max(m, n),  N = ceil(k / r) terms,  lam = 0,  gam = 1 / k

Albert et al. 2025, arXiv:2502.00987. For m <= n, the update is the transpose of this. Kernels of
all sizes read the leading parts of one A and one B. HF PEFT pairs the columns of B with lam in
another order; here they are paired as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import reshape, transpose
from keras_svd_adapters.methods.contract import Array, Kernel
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.random_bases import PortableRandom
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class RandLoRA(LowRankUpdate, Ranked):
    """Random bases of full rank: a higher `rank` trains fewer values.

    The method trains `N (rank + k)` values per kernel, where k is its smaller
    side and `N = ceil(k / rank)`. The update has rank k. With many tokens in
    float32, a step forms it once; otherwise a token costs as a LoRA of rank k.

    Args:
        rank: Integer, the rank of each term.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1. The default is that of HF PEFT, a scale of 20.
        sparse: Boolean. Whether two thirds of the bases are zeros, and the
            others of one size. Otherwise the bases are uniform.
        seed: Integer, the seed of the bases: the same numbers on every backend
            and platform. All RandLoRA adapters of a model share the bases.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.RandLoRA(rank=32).trainable_count(384, 1536)
    4992

    Reference:
        - [Albert et al., 2025](https://arxiv.org/abs/2502.00987)
    """

    rank: int = 32
    alpha: float | None = 640.0
    sparse: bool = False
    seed: int = 0

    name: ClassVar[str] = "randlora"
    shared_by: ClassVar[tuple[str, ...]] = ("rank", "sparse", "seed")

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        k, r = min(m, n), self.rank
        terms = -(-k // r)
        small = {"basis_in": (m, r)} if m <= n else {"basis_out": (r, n)}
        shared = small | {"basis": (max(m, n), terms * r)}
        return {
            "lambdas": Array((terms, r), trainable=True, start=0.0),
            "gammas": Array((terms, k), trainable=True, start=1 / k),
            **{name: Array(shape, dtype="compute", shared=True) for name, shape in shared.items()},
        }

    def start_shared(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        found = {"basis": self.basis(shapes["basis"], 0)}
        if "basis_in" in shapes:
            found["basis_in"] = self.basis(shapes["basis_in"], 1)
        if "basis_out" in shapes:  # the same A
            found["basis_out"] = self.basis(shapes["basis_out"][::-1], 1).T
        return {name: found[name] for name in shapes}

    def basis(self, shape: tuple[int, ...], stream: int) -> np.ndarray:
        """Return random numbers of mean 0 and variance 1."""
        unit = PortableRandom(self.seed, stream).uniform(shape)
        return np.float32(sqrt(3)) * (np.trunc(unit * np.float32(1.5)) if self.sparse else unit)

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        lam, gam, (terms, r) = self.scale * v.lambdas, v.gammas, v.lambdas.shape
        if hasattr(v, "basis_in"):  # m <= n
            left = v.basis_in[:, None, :] * transpose(gam)[:, :, None] * lam
            return reshape(left, (-1, terms * r)), transpose(v.basis)
        right = lam[:, :, None] * v.basis_out * gam[:, None, :]
        return v.basis, reshape(right, (terms * r, -1))
