"""The decompositions of many kernels: side by side, from the cache where they are known."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from keras_svd_adapters import svd_cache
from keras_svd_adapters.accelerator import decompose_on_accelerator, require_accelerator
from keras_svd_adapters.methods.method import SVD, Truncation
from keras_svd_adapters.svd import decompose

BYTES_OF_A_WORKER = 9  # per byte of a float32 kernel, while it is decomposed
DEVICES = ("cpu", "accelerator")


@dataclass(frozen=True)
class SVDService:
    """How kernels are decomposed.

    Args:
        cache: Whether decompositions are kept on disk, and found there.
        cache_dir: Where; `None` for the usual folder.
        device: `"cpu"`, or `"accelerator"` for the backend's.
    """

    cache: bool = True
    cache_dir: str | os.PathLike[str] | None = None
    device: str = "cpu"

    def check(self) -> None:
        """Raises where this cannot be done."""
        if self.device not in DEVICES:
            raise ValueError(
                f"`svd_device` must be one of {DEVICES}. Received: svd_device={self.device!r}"
            )
        if self.device == "accelerator":
            require_accelerator()

    def decompose(self, K: np.ndarray, part: Truncation | None = None) -> SVD:
        """The decomposition of one kernel, as `svd.decompose` has it."""
        find = decompose_on_accelerator if self.device == "accelerator" else decompose
        if not self.cache or not svd_cache.worth_keeping(K):
            return find(K, part)
        path = svd_cache.entry(K, Path(self.cache_dir or svd_cache.default_folder()))
        found = svd_cache.load(K, path)
        if found is not None:
            return found if part is None else found.part(slice(0, part.rank))
        found = find(K, part)
        if part is None:
            svd_cache.save(found, path)
        return found

    def each(self, jobs: Sequence[Job]) -> Generator[tuple[np.ndarray, SVD | None]]:
        """Many kernels in their order, each with its decomposition; some are made at a time."""
        if not any(job.wanted for job in jobs):
            yield from ((job.kernel(), None) for job in jobs)
            return
        count = self.workers(jobs)
        pool = ThreadPoolExecutor(count)
        pending: deque[tuple[np.ndarray, Future[SVD] | None]] = deque()
        with threads_of_blas(cores() // count):
            try:
                for job in jobs:
                    K = job.kernel()
                    future = pool.submit(self.decompose, K, job.part) if job.wanted else None
                    pending.append((K, future))
                    if len(pending) > count:
                        yield _result(*pending.popleft())
                while pending:
                    yield _result(*pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def workers(self, jobs: Sequence[Job]) -> int:
        """How many kernels are decomposed at a time: as many as cores and memory allow."""
        wanted = [job for job in jobs if job.wanted]
        if self.device == "accelerator" or not wanted:
            return 1
        largest = 4 * max(job.size for job in wanted)
        room = _free_bytes() // (BYTES_OF_A_WORKER * largest)
        return max(1, min(cores(), len(wanted), room))


@dataclass(frozen=True)
class Job:
    """One kernel to decompose.

    Args:
        kernel: Brings it to the host, `(m, n)`.
        size: Number of its values.
        part: What of the decomposition is wanted, `None` for all.
        wanted: Whether any is.
    """

    kernel: Callable[[], np.ndarray]
    size: int
    part: Truncation | None
    wanted: bool = True


def _result(K: np.ndarray, future: Future[SVD] | None) -> tuple[np.ndarray, SVD | None]:
    return K, None if future is None else future.result()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def threads_of_blas(threads: int) -> Iterator[None]:
    """Within, linear algebra has so many threads per call, at least one.

    Threads of a worker's own would fight those of the others.
    """
    with threadpool_limits(max(1, threads), user_api="blas"):
        yield


def _free_bytes() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on this system
        return 2**40
