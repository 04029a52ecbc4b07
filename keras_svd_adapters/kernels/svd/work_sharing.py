"""The decompositions of many kernels where several processes hold the model: each does a share.

A kernel is gathered twice, to be decomposed and to be adapted, so that no process keeps more of
them at a time than it decomposes.
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
    """As `SVDService.each`: the same factors on every process, bit for bit."""
    several = processes.process_count()
    pool = ThreadPoolExecutor(workers)
    try:
        for first in range(0, len(jobs), several * workers):
            some = jobs[first : first + several * workers]
            ours: dict[int, Future[SVD]] = {}
            for index, job in enumerate(some):
                K = job.kernel() if job.wanted else None
                if K is not None and index % several == processes.process_index():
                    ours[index] = pool.submit(decompose, K, job.part)
            for index, job in enumerate(some):
                K = job.kernel()
                yield K, _found(K, index % several, ours.get(index)) if job.wanted else None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _found(K: np.ndarray, owner: int, future: Future[SVD] | None) -> SVD:
    def arrays() -> dict[str, np.ndarray]:
        assert future is not None  # for only the owner is asked
        return arrays_of(future.result())

    return decomposition_of(K, processes.broadcast_from(owner, arrays))
