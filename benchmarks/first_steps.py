"""Times the first training step of a model of many small kernels, and its later steps.

The first step traces and compiles. Each variant has a fresh model; one process measures all, after
a first model that warms the backend up. Python collects no garbage meanwhile: a collection takes
0.4 seconds and would fall on any of the variants.
"""

from __future__ import annotations

import gc
import json
import sys
from statistics import median
from typing import Any

import keras
import keras_hub
import numpy as np
from gradient_pass import jax_pass

import keras_svd_adapters as ksa
from keras_svd_adapters.runtime.machine import seconds_of

ROUNDS = 15
BLOCKS = 12
METHODS: dict[str, ksa.Method | str] = {
    "frozen": "frozen",
    "full fine-tuning": "full",
    "LoRA r=8": ksa.LoRA(rank=8),
    "DoRA r=8": ksa.DoRA(rank=8),
    "PiSSA r=8": ksa.PiSSA(rank=8),
    "LoRA-XS r=8": ksa.LoRAXS(rank=8),
    "SVF": ksa.SVF(),
    "SVFT d=2": ksa.SVFT(pattern="banded", d=2),
}


def prepared(method: ksa.Method | str) -> keras.Model:
    """A tiny Llama of 12 blocks and 84 kernels with a head, adapted and compiled."""
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=512,
        num_layers=BLOCKS,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=64,
        intermediate_dim=128,
    )
    head = keras.layers.Dense(2, name="head")(backbone.output[:, 0])
    model = keras.Model(backbone.input, head)
    if method == "frozen":
        backbone.trainable = False
    elif isinstance(method, ksa.Method):
        ksa.enable(model, method, train="head", verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    return model


def batch() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 512, (4, 32))
    mask = np.ones(ids.shape, "int32")
    return {"token_ids": ids, "padding_mask": mask}, rng.integers(0, 2, (4,))


def main() -> None:
    gc.disable()
    x, y = batch()
    prepared("frozen").train_on_batch(x, y)
    models = {name: prepared(method) for name, method in METHODS.items()}
    found = {
        name: {"first": seconds_of(lambda model=model: model.train_on_batch(x, y))}  # type: ignore[misc]
        for name, model in models.items()
    }
    steps: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            steps[name].append(seconds_of(lambda model=model: model.train_on_batch(x, y)))  # type: ignore[misc]
    for name, times in steps.items():
        found[name]["step"] = median(times)
    if keras.backend.backend() == "jax":
        for name, model in models.items():
            found[name]["operations"] = jax_pass(model, x, False)[1]["operations"]
    print(found, file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
