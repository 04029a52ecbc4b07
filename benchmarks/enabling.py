"""Times `enable` on MiniLM without and with its decompositions in the cache; sizes of what comes.

The sizes of Gemma-2B are those of its plan, which the tests hold to what happens.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
from cases import minilm

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.svd import cache as svd_cache

svd_cache.LEAST_OPERATIONS = 0  # MiniLM's kernels are small

METHODS: dict[str, ksa.Method] = {
    "LoRA r=8": ksa.LoRA(rank=8),
    "DoRA r=8": ksa.DoRA(rank=8),
    "VeRA r=256": ksa.VeRA(rank=256),
    "PiSSA r=8": ksa.PiSSA(rank=8),
    "PiSSA r=8 randomized": ksa.PiSSA(rank=8, svd="randomized"),
    "LoRA-XS r=16": ksa.LoRAXS(rank=16),
    "SVF": ksa.SVF(),
    "SVFT d=2": ksa.SVFT(pattern="banded", d=2),
    "SVFT d=2 factored": ksa.SVFT(pattern="banded", d=2, formulation="factored"),
    "SVFT random d=2": ksa.SVFT(pattern="random", d=2),
}
GEMMA_2B = {
    "class_name": "GemmaBackbone",
    "config": {
        "vocabulary_size": 256000,
        "num_layers": 18,
        "num_query_heads": 8,
        "num_key_value_heads": 1,
        "hidden_dim": 2048,
        "intermediate_dim": 32768,
        "head_dim": 256,
    },
}


def timed(model: keras.Model, method: ksa.Method, folder: str) -> float:
    start = time.perf_counter()
    ksa.enable(model, method, cache_dir=folder, verbose=0)
    return time.perf_counter() - start


def measure(method: ksa.Method) -> dict[str, float]:
    """Seconds to enable, cold and warm; bytes of the file; seconds to merge."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        model, _ = minilm()
        found["cold"] = timed(model, method, folder)
        model, _ = minilm()
        found["warm"] = timed(model, method, folder)
        path = Path(folder) / "adapter.keras"
        ksa.save_adapter(model, path)
        found["file"] = path.stat().st_size
        start = time.perf_counter()
        ksa.merge(model)
        found["merge"] = time.perf_counter() - start
    return found


def size_in_gemma(method: ksa.Method) -> dict[str, float]:
    """Trained values, bytes of the file, and of kernels and frozen factors to those of kernels.

    On a GPU or TPU, kernels that no step reads are in host memory.
    """
    plan = ksa.plan(GEMMA_2B, method)
    kernels = sum(4 * site.site.view.m * site.site.view.n for site in plan.sites)
    return {
        "values": plan.trainable_parameters,
        "file": plan.file_bytes,
        "bytes": (kernels + plan.frozen_bytes) / kernels,
        "on device": (kernels + plan.frozen_bytes - plan.unread_bytes) / kernels,
    }


def main() -> None:
    results: dict[str, Any] = {"minilm": {}, "gemma": {}}
    minilm()
    for name, method in METHODS.items():
        results["minilm"][name] = measure(method)
        results["gemma"][name] = size_in_gemma(method)
        print(name, results["minilm"][name], results["gemma"][name], file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
