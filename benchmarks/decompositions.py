"""Times the decompositions against LAPACK, and measures their accuracy and memory.

One BLAS thread, except where several kernels are decomposed at a time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
from peak_memory import PeakMemory
from threadpoolctl import threadpool_limits

from keras_svd_adapters.kernels.svd.decomposition import decompose
from keras_svd_adapters.kernels.svd.job import Job
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.contract import Truncation
from keras_svd_adapters.runtime.machine import cores

GEMMA_2B = {(2048, 2048): 36, (2048, 256): 36, (2048, 16384): 36, (16384, 2048): 18}
TOP = Truncation(16, 8, 0)


def kernel(m: int, n: int, seed: int = 0) -> np.ndarray:
    """A random bulk and 64 spikes that fall as a power law."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(m, 64)))[0]
    right = np.linalg.qr(rng.normal(size=(n, 64)))[0]
    spikes = 20 * np.arange(1, 65) ** -0.7
    bulk = rng.normal(size=(m, n)) / np.sqrt(max(m, n))
    return (bulk + (left * spikes) @ right.T).astype("float32")


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def gesdd(K: np.ndarray) -> Any:
    return scipy.linalg.svd(K, full_matrices=False)


def accuracy(K: np.ndarray) -> dict[str, float]:
    found = decompose(K)
    U, Vt = found.U.astype("float64"), found.Vt.astype("float64")
    eye = np.eye(len(found.s))
    return {
        "orthogonality": float(max(abs(U.T @ U - eye).max(), abs(Vt @ Vt.T - eye).max())),
        "reconstruction": float(np.linalg.norm((U * found.s) @ Vt - K) / np.linalg.norm(K)),
        "condition": float(found.s[0] / found.s[-1]),
    }


def ill_conditioned(k: int, condition: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(k, k)))[0] for _ in range(2))
    return ((U * np.geomspace(1, 1 / condition, k)) @ V).astype("float32")


def main() -> None:
    results: dict[str, Any] = {"cores": cores()}
    with threadpool_limits(1, user_api="blas"):
        K = kernel(2048, 16384)
        numpy_time, _ = seconds(lambda: np.linalg.svd(K, full_matrices=False))
        with PeakMemory() as memory:
            smaller, found = seconds(lambda: decompose(K))
        with PeakMemory() as larger_memory:
            larger, _ = seconds(lambda: (found.U, found.Vt))
        results["2048x16384"] = {
            "numpy": numpy_time,
            "smaller": smaller,
            "all": smaller + larger,
            "memory": max(memory.bytes, larger_memory.bytes) / K.nbytes,
        } | accuracy(K)
        print(results, file=sys.stderr)
        square = kernel(2048, 2048)
        lapack, exact = seconds(lambda: gesdd(square))
        with PeakMemory() as memory:
            ours, found = seconds(lambda: decompose(square))
        top, part = seconds(lambda: decompose(square, TOP))
        energy = float((part.s**2).sum() / (exact[1][:16] ** 2).sum())
        results["2048x2048"] = {
            "gesdd": lapack,
            "smaller": ours,
            "top16": top,
            "energy": energy,
            "memory": memory.bytes / square.nbytes,
        } | accuracy(square)
        results["ill-conditioned square"] = accuracy(ill_conditioned(768, 4e6))
        print(results, file=sys.stderr)
        parts = {
            (2048, 2048): lapack,
            (2048, 256): seconds(lambda: gesdd(kernel(2048, 256)))[0],
            (2048, 16384): seconds(lambda: gesdd(K))[0],
        }
        parts[16384, 2048] = seconds(lambda: gesdd(np.ascontiguousarray(K.T)))[0]
        results["Gemma-2B"] = gemma(parts)
    print(json.dumps(results))


def gemma(lapack: dict[tuple[int, int], float]) -> dict[str, float]:
    """A layer's kernels through the service, cold and warm, against single calls of LAPACK.

    All 18 layers have the same shapes, so one stands for all.
    """
    layer = [shape for shape, count in GEMMA_2B.items() for _ in range(count // 18)]
    kernels = [kernel(*shape, seed=i) for i, shape in enumerate(layer)]
    jobs = [Job(lambda K=K: K, K.shape, None) for K in kernels]
    with tempfile.TemporaryDirectory() as folder:
        service = SVDService(cache_dir=folder)

        def run() -> None:
            for _, _ in service.each(jobs):
                pass

        start = time.process_time()
        cold = seconds(run)[0]
        middle = time.process_time()
        warm = seconds(run)[0]
        end = time.process_time()
    single = sum(lapack[shape] for shape in layer)
    found = {"gesdd": single, "cold": cold, "warm": warm}
    found |= {"cold CPU": middle - start, "warm CPU": end - middle}
    return {name: 18 * value for name, value in found.items()}


if __name__ == "__main__":
    main()
