"""Decompositions of many kernels, divided among the processes that hold the model.

Each process gathers a kernel twice: to decompose it and to adapt it. No process therefore holds
more kernels at a time than it decomposes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from keras_svd_adapters.kernels.svd.cache import arrays_of, decomposition_of
from keras_svd_adapters.kernels.svd.job import Job
from keras_svd_adapters.methods.contract import SVD, Truncation
from keras_svd_adapters.runtime import processes


def each_by_share(
    jobs: Sequence[Job],
    decompose: Callable[[np.ndarray, Truncation | None], SVD],
    workers: int,
) -> Generator[tuple[np.ndarray, SVD | None]]:
    """Yield as `SVDService.each` does: the same factors on every process, bit for bit."""
    several = processes.process_count()
    pool = ThreadPoolExecutor(workers)
    try:
        for first in range(0, len(jobs), several * workers):
            some = jobs[first : first + several * workers]
            ours: dict[int, Future[SVD]] = {}
            for index, job in enumerate(some):
                K = job.kernel() if job.is_required else None
                if K is not None and index % several == processes.process_index():
                    ours[index] = pool.submit(decompose, K, job.part)
            for index, job in enumerate(some):
                K = job.kernel()
                yield K, _found(K, index % several, ours.get(index)) if job.is_required else None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _found(K: np.ndarray, owner: int, future: Future[SVD] | None) -> SVD:
    def arrays() -> dict[str, np.ndarray]:
        assert future is not None  # only the owner runs this function
        return arrays_of(future.result())

    return decomposition_of(K, processes.broadcast_from(owner, arrays))
