"""PRILoRA: the norms of the inputs before the start, and the pruning against float64."""

import numpy as np
import pytest
from numpy_training import (
    LAYERS,
    SGD,
    Adam,
    Loop,
    X,
    adapted,
    arrays_of,
    fit,
    masked,
    optimizer,
)

import keras_svd_adapters as ksa
from keras_svd_adapters import methods


def test_the_norms_are_those_of_the_inputs():
    model = adapted(methods.PRILoRA(rank=2), "sgd")
    norms = np.sqrt((X.astype("float64") ** 2).mean(axis=0))
    np.testing.assert_allclose(arrays_of(model)["input_norms"], norms, rtol=1e-6)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_pri_lora(kind):
    schedule = ksa.PRILoRASchedule(begin=1, end=7, every=3)
    rate = 3e-4 if kind is SGD else 1e-2
    method = methods.PRILoRA(rank=2, alpha=4, share=0.3)
    model = adapted(method, optimizer(kind, schedule, rate), layers=LAYERS)
    norms = np.sqrt((X.astype("float64") ** 2).mean(axis=0))
    loop = Loop(model, LAYERS, form, kind(rate))

    def prune(t):
        if t not in (4, 7):
            return
        count = round(6 * (0.3 + 0.7 * (1 - (t - 1) / 6) ** 3))
        for v in loop.v.values():
            scores = np.abs(v["lora_a"] * v["mask_a"]) * norms[:, None]
            v["mask_a"] = (scores >= np.sort(scores, axis=0)[-count]).astype(float)
            v["lora_a"] = v["lora_a"] * v["mask_a"]

    loop.run(12, before=prune)
    fit(model, 12, schedule)
    loop.check()
    for layer in LAYERS:
        arrays = arrays_of(model, layer)
        assert list(arrays["mask_a"].sum(0)) == [2, 2]  # 0.3 of 6


def form(v):
    """The form of RoseLoRA, without a mask of B."""
    return masked(2.0)(v | {"mask_b": np.ones_like(v["lora_b"])})
