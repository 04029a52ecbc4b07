"""PMSS: a small matrix between some columns and some rows of the kernel itself.

    K' = K + C M R        C (m, r) columns of K, R (r, n) rows of K,  M (r, r) starts at 0

Wang et al. 2024, arXiv:2409.16722. We know the paper by its summary: here a QR decomposition with
pivoting chooses the columns and the rows. Their places are in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import take
from scipy.linalg import qr

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class PMSS(LowRankUpdate, Ranked):
    """Matrix skeleton selection: the update lives between columns and rows of the kernel.

    The method trains `rank ** 2` values per kernel of any size, and needs no
    decomposition into singular values.

    Args:
        rank: Integer, the number of columns and of rows.

    Raises:
        ValueError: If `rank` is out of its range.

    Example:

    >>> keras_svd_adapters.methods.PMSS(rank=16).trainable_count(384, 1536)
    256

    Reference:
        - [Wang et al., 2024](https://arxiv.org/abs/2409.16722)
    """

    rank: int = 8

    name: ClassVar[str] = "pmss"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r = self.rank
        return {
            "latent": Array((r, r), trainable=True, start=0.0),
            "columns": Array((r,), dtype="int32", saved=True),
            "rows": Array((r,), dtype="int32", saved=True),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        pivots = {"columns": K, "rows": K.T}
        return {
            name: np.sort(qr(matrix, mode="r", pivoting=True)[1][: self.rank])
            for name, matrix in pivots.items()
        }

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        K = kernel()
        return matmul(take(K, v.columns, axis=1), v.latent), take(K, v.rows, axis=0)

    low_rank = Method.low_rank  # the factors are parts of the kernel
