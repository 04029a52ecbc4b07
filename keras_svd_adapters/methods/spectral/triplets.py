"""Methods that read some singular triplets of a kernel: U (m, r), s (r,) and Vt (r, n)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.hyperparameters import (
    check_alpha,
    check_positive_integers,
    check_rank,
)
from keras_svd_adapters.methods.method import Method


class FromTriplets(Method):
    """Mixin that reads `rank` triplets from `first` on, the largest ones by default."""

    rank: int
    first: int = 0
    alpha: float | None = None

    needs_svd: ClassVar[bool] = True
    basis_matters: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive_integers(rank=self.rank)
        check_alpha(self.alpha)
        if not isinstance(self.first, int) or self.first < 0:
            raise ValueError(
                f"`first` must be a non-negative integer. Received: first={self.first!r}"
            )

    def check(self, m: int, n: int) -> None:
        check_rank(self.rank, m, n)
        if self.first + self.rank > min(m, n):
            raise ValueError(
                f"A kernel of shape ({m}, {n}) has {min(m, n)} singular triplets; use "
                f"`first={min(m, n) - self.rank}` or less. "
                f"Received: rank={self.rank}, first={self.first}"
            )

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        assert svd is not None
        part = svd.part(slice(self.first, self.first + self.rank))
        return {"s": part.s, "U": part.U, "Vt": part.Vt}


def triplet_arrays(m: int, n: int, rank: int, dtype: str = "compute") -> dict[str, Array]:
    """Return the declarations of U, s and Vt."""
    return {
        "s": Array((rank,)),
        "U": Array((m, rank), dtype=dtype, axes="m."),
        "Vt": Array((rank, n), dtype=dtype, axes=".n"),
    }
