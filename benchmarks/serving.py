"""Times requests for many adapters of a pool, to those for one adapter.

A request is one prompt for one adapter. All variants take turns in one process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import keras
import keras_hub
import numpy as np

import keras_svd_adapters as ksa
from keras_svd_adapters.runtime.machine import seconds_of

ADAPTERS, SLOTS, BATCH, BATCHES, TOKENS, ROUNDS = 1000, 64, 16, 8, 32, 15
ONE = "one adapter, active"


def model() -> keras.Model:
    """A tiny Llama of 4 blocks and 28 kernels."""
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=512,
        num_layers=4,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=64,
        intermediate_dim=128,
    )
    return keras.Model(backbone.input, backbone.output[:, -1])


def filled(served: keras.Model) -> ksa.AdapterPool:
    """A pool of adapters with drawn values."""
    pool = ksa.AdapterPool(served, "own", slots=SLOTS)
    rng = np.random.default_rng(0)
    shapes = {site.path: site.view.matrix_shape for site in pool.sites.values()}
    for number in range(ADAPTERS):
        arrays = {
            path: {"lora_a": rng.normal(size=(m, 8)), "lora_b": 0.01 * rng.normal(size=(8, n))}
            for path, (m, n) in shapes.items()
        }
        pool.add(f"user {number}", arrays)
    return pool


def main() -> None:
    rng, served = np.random.default_rng(1), model()
    ids = rng.integers(0, 512, (BATCH * BATCHES, TOKENS)).astype("int32")
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    ksa.enable(served, ksa.LoRA(rank=8), name="own", verbose=0)
    adding = seconds_of(lambda: pools.append(filled(served)))
    (pool,) = pools

    def draw(count: int) -> Callable[[], Any]:
        """Requests for random ones of the first adapters."""
        return lambda: ksa.predict(
            served, x, [f"user {i}" for i in rng.integers(0, count, len(ids))], batch_size=BATCH
        )

    variants: dict[str, tuple[int, Callable[[], Any]]] = {
        ONE: (0, lambda: served.predict(x, batch_size=BATCH, verbose=0)),
        "pool, one name": (1, draw(1)),
        f"pool, {SLOTS} names, all in slots": (SLOTS, draw(SLOTS)),
        f"pool, {ADAPTERS} names": (0, draw(ADAPTERS)),
    }
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(ROUNDS + 2):
        for name, (resident, run) in variants.items():
            with pool.pinned([f"user {i}" for i in range(resident)]):
                pass
            loads, seconds = pool.loads, seconds_of(run)
            if turn > 1:  # the first ones compile and load
                taken[name].append(seconds)
            print(name, f"{seconds:.3f} s", pool.loads - loads, "loads", file=sys.stderr)
    found = {
        name: {
            "requests": len(ids) / median(times),
            "ratio": float(median(np.divide(taken[ONE], times))),
        }
        for name, times in taken.items()
    }
    bytes_of = {"host": pool.host_bytes, "device": pool.device_bytes, "adding": adding}
    print(json.dumps({"variants": found, "pool": bytes_of}))


pools: list[ksa.AdapterPool] = []


if __name__ == "__main__":
    main()
