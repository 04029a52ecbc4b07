"""Cores, threads and memory that this process may use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from threadpoolctl import threadpool_info, threadpool_limits


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def threads_of_blas(threads: int) -> Iterator[None]:
    """Context manager: limit each call of linear algebra to this many threads, at least one.

    Without a limit, the threads of one worker compete with those of the others. The limit never
    exceeds the number of threads before.
    """
    before = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    with threadpool_limits(max(1, min([threads, *before])), user_api="blas"):
        yield


def seconds_of(work: Callable[[], object]) -> float:
    """Run work; return how many seconds it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def free_bytes() -> int:
    """Bytes of memory that this process can still use, as far as Linux reports them."""
    left = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        left.append(1024 * int(next(x for x in lines if x.startswith("MemAvailable")).split()[1]))
    with suppress(OSError, ValueError):  # a container's own limit; "max" if it has none
        group = Path("/sys/fs/cgroup")
        most, used = [(group / f"memory.{name}").read_text() for name in ("max", "current")]
        left.append(int(most) - int(used))
    return max(0, min(left, default=2**40))
