"""Estimated time of decompositions on this machine."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from keras_svd_adapters.kernels.svd.decomposition import KRYLOV_STEPS, krylov_pays
from keras_svd_adapters.methods.contract import Truncation
from keras_svd_adapters.runtime.machine import seconds_of, threads_of_blas


def decomposition_seconds(m: int, n: int, part: Truncation | None, kept: bool = False) -> float:
    """Estimate the seconds that one core needs for an `(m, n)` kernel.

    Args:
        m: Number of rows of the kernel.
        n: Number of columns of the kernel.
        part: Requested part of the decomposition, `None` for all of it.
        kept: Whether the smaller factor is on disk already.

    Returns:
        The time of a Gram matrix, an eigenproblem of about 9 k^3 operations,
        and the product that makes the larger factor. If `kept`, the time of
        this product alone.
    """
    k, length = min(m, n), max(m, n)
    matmul_rate, eigh_rate = host_speed()
    if part is not None and krylov_pays(m, n, part):
        width = part.rank + part.oversampling
        products = 4 * m * n * width * (2 * KRYLOV_STEPS + 2)
        return products / matmul_rate + 9 * (width * (KRYLOV_STEPS + 1)) ** 2 * length / eigh_rate
    product = 2 * k * k * length / matmul_rate
    return product if kept else 2 * product + 9 * k**3 / eigh_rate


@lru_cache(maxsize=1)
def host_speed() -> tuple[float, float]:
    """Measure float64 operations per second of one core, in a matmul and in `eigh`.

    The measurement uses one thread, as a worker does. Two threads of one `eigh` wait for each
    other. On a busy machine, they wait many times as long as they compute.
    """
    size = 384
    a = np.random.default_rng(0).normal(size=(size, size))
    gram = a @ a.T
    with threads_of_blas(1):
        matmul = min(seconds_of(lambda: a @ a) for _ in range(3))
        eigh = min(seconds_of(lambda: np.linalg.eigh(gram)) for _ in range(3))
    return 2 * size**3 / matmul, 9 * size**3 / eigh
