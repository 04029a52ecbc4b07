"""Methods with a rank, and perhaps an alpha and a seed."""

from __future__ import annotations

from keras_svd_adapters.methods.hyperparameters import (
    check_alpha,
    check_positive_integers,
    check_rank,
    check_seed,
    scale_of,
)
from keras_svd_adapters.methods.method import Method


class Ranked(Method):
    """Mixin that checks `rank`, `alpha` and `seed`; a method declares the ones that it has."""

    rank: int
    alpha: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive_integers(rank=self.rank)
        check_alpha(self.alpha)
        check_seed(self.seed)

    @property
    def scale(self) -> float:
        """The factor `c` before the update."""
        return scale_of(self.alpha, self.rank)

    def check(self, m: int, n: int) -> None:
        check_rank(self.rank, m, n)
