"""Tensor trains: a matrix as a product of small cores."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log, prod
from typing import Any

from keras_svd_adapters.methods.algebra import reshape

LARGEST = 16  # size of a core, where prime factors allow it
PUBLISHED = {6144: (8, 8, 12, 8), 8192: (4, 8, 8, 8, 4), 32768: (16, 16, 8, 4, 4)}  # LoRETTA


def train_sizes(count: int) -> tuple[int, ...]:
    """Return the sizes of cores, about equal and small, whose product is a number."""
    if count in PUBLISHED:
        return PUBLISHED[count]
    sizes = [1] * max(ceil(log(count, LARGEST) - 1e-9), 1)
    for prime in sorted(prime_factors(count), reverse=True):
        sizes[sizes.index(min(sizes))] *= prime
    return tuple(sorted(sizes, reverse=True))


def prime_factors(count: int) -> list[int]:
    """Return the prime factors of a number, each as often as it divides the number."""
    found, divisor = [], 2
    while count > 1:
        while count % divisor == 0:
            found.append(divisor)
            count //= divisor
        divisor += 1
    return found


def core_shapes(sizes: Sequence[int], rank: int) -> list[tuple[int, int, int]]:
    """Return the shapes `(t, size, t)` of the cores; the train has rank 1 at both ends."""
    ranks = [1, *[rank] * (len(sizes) - 1), 1]
    return [(ranks[i], size, ranks[i + 1]) for i, size in enumerate(sizes)]


def train_product(cores: Sequence[Any], shape: tuple[int, int]) -> Any:
    """Return the matrix of a train, whose entries are in the order of the sizes."""
    found = reshape(cores[0], (-1, cores[0].shape[2]))
    for core in cores[1:]:
        t, size, following = core.shape
        found = reshape(found @ reshape(core, (t, size * following)), (-1, following))
    assert prod(found.shape) == prod(shape)
    return reshape(found, shape)


def check_train(*sizes: int) -> None:
    """Raise `ValueError` if a size of a kernel would make a core as large as the matrix."""
    for size in sizes:
        if max(prime_factors(size), default=1) > LARGEST:
            raise ValueError(
                f"{size} has a prime factor above {LARGEST}, so that a core of the tensor train "
                "would be nearly as large as the matrix; use another method here, or leave the "
                f"layer out with `exclude`. Received: a kernel with a side of {size}"
            )
