"""Decompositions of many kernels: computed in parallel, or read from the cache."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from keras_svd_adapters.kernels.svd import cache as svd_cache
from keras_svd_adapters.kernels.svd.accelerator import (
    accelerator,
    decompose_on_accelerator,
    on_accelerator,
    require_accelerator,
)
from keras_svd_adapters.kernels.svd.decomposition import decompose, krylov_pays
from keras_svd_adapters.kernels.svd.job import Job
from keras_svd_adapters.kernels.svd.work_sharing import each_by_share
from keras_svd_adapters.methods.contract import SVD, Truncation
from keras_svd_adapters.runtime import processes
from keras_svd_adapters.runtime.machine import cores, free_bytes, threads_of_blas

BYTES_OF_A_WORKER = 9  # per byte of a float32 kernel, during its decomposition
DEVICES = ("auto", "cpu", "accelerator")


@dataclass(frozen=True)
class SVDService:
    """Decomposition of kernels, with a cache on disk.

    Args:
        cache: Whether to store decompositions on disk and reuse them.
        cache_dir: Folder of the cache; `None` for the default folder.
        device: `"cpu"`, `"accelerator"` for the backend's accelerator, or `"auto"` for a GPU
            if there is one.
    """

    cache: bool = True
    cache_dir: str | os.PathLike[str] | None = None
    device: str = "auto"

    def check(self) -> None:
        """Raise `ValueError` if these settings are invalid on this machine."""
        if self.device not in DEVICES:
            raise ValueError(
                f"`svd_device` must be one of {DEVICES}. Received: svd_device={self.device!r}"
            )
        if self.device == "accelerator":
            require_accelerator()

    def decompose(self, K: np.ndarray, part: Truncation | None = None) -> SVD:
        """Return the decomposition of one kernel, from the cache if possible."""
        find = decompose_on_accelerator if self.accelerates else decompose
        if not self._keeps(K.shape, part):
            return find(K, part)
        path = svd_cache.entry(K, self.folder, self._precision)
        found = svd_cache.load(K, path)
        if found is None:
            found = find(K)
            svd_cache.save(found, path)
        elif self.accelerates:
            found = on_accelerator(found)
        return found if part is None else found.part(slice(0, part.rank))

    @property
    def accelerates(self) -> bool:
        """Whether the accelerator decomposes."""
        return self.device == "accelerator" or (self.device == "auto" and accelerator() == "gpu")

    @property
    def _precision(self) -> str:
        """The entries of the cache to use: a GPU is as exact as the host, a TPU is not."""
        return "accelerator" if self.accelerates and accelerator() == "tpu" else "cpu"

    @property
    def folder(self) -> Path:
        """Folder of the cached decompositions."""
        return Path(self.cache_dir or svd_cache.default_folder())

    def _keeps(self, shape: tuple[int, ...], part: Truncation | None) -> bool:
        m, n = shape
        approximate = part is not None and krylov_pays(m, n, part)
        return self.cache and not approximate and svd_cache.worth_keeping(m, n)

    def kept(self, jobs: Sequence[Job]) -> list[bool]:
        """Return for each job whether the cache holds its decomposition.

        A kernel is brought to the host only if the cache holds an entry of its shape.
        """
        keeps = [job.is_required and self._keeps(job.shape, job.part) for job in jobs]
        if not any(keeps):
            return keeps
        shapes = processes.broadcast_from(0, lambda: svd_cache.shapes(self.folder))
        return [
            keep and job.shape in shapes and self._holds(job.kernel())
            for keep, job in zip(keeps, jobs, strict=True)
        ]

    def _holds(self, K: np.ndarray) -> bool:
        entry = svd_cache.entry(K, self.folder, self._precision)
        return processes.broadcast_from(0, entry.exists)

    def each(self, jobs: Sequence[Job]) -> Generator[tuple[np.ndarray, SVD | None]]:
        """Yield the kernels in order, each with its decomposition; several are computed at once."""
        if not any(job.is_required for job in jobs):
            yield from ((job.kernel(), None) for job in jobs)
            return
        count = processes.minimum(lambda: self.workers(jobs))
        with threads_of_blas(cores() // count):
            if processes.process_count() > 1:
                yield from each_by_share(jobs, self.decompose, count)
                return
            pool = ThreadPoolExecutor(count)
            pending: deque[tuple[np.ndarray, Future[SVD] | None]] = deque()
            try:
                for job in jobs:
                    K = job.kernel()
                    future = pool.submit(self.decompose, K, job.part) if job.is_required else None
                    pending.append((K, future))
                    if len(pending) > count:
                        yield _result(*pending.popleft())
                while pending:
                    yield _result(*pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def workers(self, jobs: Sequence[Job]) -> int:
        """Return how many kernels to decompose at a time: as many as cores and memory allow."""
        required = [job for job in jobs if job.is_required]
        if self.accelerates or not required:
            return 1
        largest = 4 * max(prod(job.shape) for job in required)
        room = free_bytes() // (BYTES_OF_A_WORKER * largest)
        return max(1, min(cores(), len(required), room))


def _result(K: np.ndarray, future: Future[SVD] | None) -> tuple[np.ndarray, SVD | None]:
    return K, None if future is None else future.result()
