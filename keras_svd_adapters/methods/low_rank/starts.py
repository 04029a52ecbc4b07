"""Starts of LoRA's factors that need no data: A0 and B0 for a kernel. One of them may be zero."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import numpy as np

from keras_svd_adapters.methods.random_bases import PortableRandom
from keras_svd_adapters.methods.statistics import Statistics


class Generated:
    """Random numbers of a generator of NumPy, by the functions of `PortableRandom`.

    Args:
        rng: The generator.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def uniform(self, shape: tuple[int, ...], bound: float = 1.0) -> np.ndarray:
        """Return numbers that are uniform in +-bound."""
        return self.rng.uniform(-bound, bound, shape)

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return numbers of the standard normal distribution."""
        return self.rng.normal(size=shape)


class Given(NamedTuple):
    """What a start may read.

    Args:
        K: The kernel.
        rank: The rank of the update.
        scale: The factor `c` before `A B`.
        random: The source of random numbers.
        data: The statistics that the start needs.
    """

    K: np.ndarray
    rank: int
    scale: float
    random: Generated | PortableRandom
    data: Statistics


class Start(NamedTuple):
    """A start of the factors.

    Args:
        zero: The factor that starts at zero, `"a"` or `"b"`; `None` if neither does.
        factors: Function that returns A0 and B0; it returns `None` for a factor of zeros.
        needs: The statistics that it reads, as `Method.needs`.
        divisor: A number that must divide the rank.
        share: How many times the rank must fit into the kernel.
    """

    zero: str | None
    factors: Callable[[Given], tuple[np.ndarray | None, np.ndarray | None]]
    needs: tuple[str, ...] = ()
    divisor: int = 1
    share: int = 1

    def check(self, rank: int, frozen: str | None) -> None:
        """Raise `ValueError` for a rank that does not suit, or if no factor could change."""
        if rank % self.divisor:
            raise ValueError(
                f"This start of LoRA needs an even rank: use `rank={rank + 1}`. "
                f"Received: rank={rank}"
            )
        if frozen is not None and frozen == self.zero:
            raise ValueError(
                "The frozen factor starts at zero, so the other one would never change: freeze "
                f"the other factor, or choose another `start`. Received: freeze={frozen!r}"
            )


def kaiming(given: Given) -> tuple[np.ndarray, None]:
    """A uniform in +-1/sqrt(m), as in HF PEFT."""
    m = len(given.K)
    return given.random.uniform((m, given.rank), 1 / sqrt(m)), None


def gaussian(given: Given) -> tuple[np.ndarray, None]:
    """A normal, with standard deviation 1 / r, as in HF PEFT."""
    return given.random.normal((len(given.K), given.rank)) / given.rank, None


def init_b(given: Given) -> tuple[None, np.ndarray]:
    """B normal, with variance 1 / r."""
    return None, given.random.normal((given.rank, given.K.shape[1])) / sqrt(given.rank)


def orthonormal(given: Given) -> tuple[np.ndarray, None]:
    """A with orthonormal columns, in random directions."""
    return _orthonormal(given.random.normal((len(given.K), given.rank))), None


def orthogonal(given: Given) -> tuple[np.ndarray, np.ndarray]:
    """A and B from the odd and the even rows of a random orthogonal matrix: A0 B0 = 0."""
    (m, n), r = given.K.shape, given.rank
    Q = _orthonormal(given.random.normal((r, r)))
    a = given.random.normal((m, r // 2)) @ Q[0::2]
    return a / 10, Q[1::2].T @ given.random.normal((r // 2, n)) / 10


def olora(given: Given) -> tuple[np.ndarray, np.ndarray]:
    """`K^T = Q T`: B0 is the first rows of Q^T, and A0 the first columns of T^T = K Q."""
    Q = _orthonormal(given.K[: given.rank].T)  # the first columns of that Q
    return given.K @ Q, Q.T


def nystrom(given: Given) -> tuple[np.ndarray, None]:
    """A = K times a random normal matrix of variance 1 / n: a sketch of what K puts out."""
    n = given.K.shape[1]
    return given.K @ given.random.normal((n, given.rank)) / sqrt(n), None


def _orthonormal(matrix: np.ndarray) -> np.ndarray:
    """Return orthonormal columns; the first j span the first j columns of a matrix."""
    return np.linalg.qr(matrix.astype("float64"))[0]


WITHOUT_DATA = {
    "kaiming": Start("b", kaiming),
    "gaussian": Start("b", gaussian),
    "init_b": Start("a", init_b),
    "orthonormal": Start("b", orthonormal),
    "orthogonal": Start(None, orthogonal, divisor=2),
    "olora": Start(None, olora),
    "nystrom": Start("b", nystrom),
}
