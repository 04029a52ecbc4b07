"""Ranks that move from one kernel to another, step by step against a NumPy loop in float64."""

import numpy as np
import pytest
from cases import numpy
from numpy_training import LAYERS, SGD, Adam, Loop, adapted, arrays_of, fit, gated, optimizer

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.training.schedules.allocating_lora import reallocated

STEPS = 14


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_allocating_lora(kind):
    rng = np.random.default_rng(7)
    x, y = (rng.normal(size=(5, size)).astype("float32") for size in (6, 5))
    method = methods.AllocatingLoRA(rank=2, spare=2)
    schedule = ksa.AllocatingLoRASchedule((x, y), begin=1, end=9, every=4, count=1, seed=2)
    rate = 1e-3 if kind is SGD else 1e-2
    model = adapted(method, optimizer(kind, schedule, rate), layers=LAYERS)
    loop = Loop(model, LAYERS, gated, kind(rate))
    layers = [model.get_layer(layer) for layer in LAYERS]
    kernel = sum(numpy(layer.base_kernel_value()).astype("float64") for layer in layers)

    def loss(masks):
        delta = sum(gated(loop.v[layer] | {"mask": masks[layer]})[0] for layer in LAYERS)
        return np.square(x @ (kernel + delta) - y).sum() / len(x)

    def move(t):
        if t not in (5, 9):
            return
        masks = {layer: v["mask"] for layer, v in loop.v.items()}
        zeros, scores = {layer: np.zeros(4) for layer in LAYERS}, {}
        for layer, i in [(x, i) for x in LAYERS for i in np.flatnonzero(masks[x])]:
            one = np.eye(4)[i]
            less = loss(masks | {layer: masks[layer] - one})
            scores[layer, i] = less - loss(zeros | {layer: one})
        lost, i = min(scores, key=scores.get)
        (gains,) = set(LAYERS) - {lost}
        j = np.flatnonzero(masks[gains] == 0)[0]
        loop.v[lost]["mask"] = masks[lost] - np.eye(4)[i]
        loop.v[gains]["mask"] = masks[gains] + np.eye(4)[j]
        for v in loop.v.values():
            v["gate"] = v["gate"] * v["mask"]
        random = np.random.Generator(np.random.Philox(key=np.array([2, t], "uint64")))
        a = random.uniform(-(6**-0.5), 6**-0.5, (6, 4))[:, j]
        for name, place, value in (("lora_a", np.s_[:, j], a), ("gate", j, 1), ("lora_b", j, 0)):
            loop.v[gains][name][place] = value
            for slots in (getattr(loop.step, slot, {}) for slot in "mv"):
                if (gains, name) in slots:
                    slots[gains, name][place] = 0

    first = {layer: v["mask"] for layer, v in loop.v.items()}
    before = loss(first)
    loop.run(STEPS, before=move)
    fit(model, STEPS, schedule)
    loop.check()
    masks = {layer: arrays_of(model, layer)["mask"] for layer in LAYERS}
    assert sum(mask.sum() for mask in masks.values()) == 4
    assert any(np.any(masks[layer] != first[layer]) for layer in LAYERS)
    assert loss(masks) < before


def test_what_a_round_moves():
    """Kernels that lose a rank gain none, and a kernel without ranks stays so."""
    rng = np.random.default_rng(1)
    for count in range(1, 8):
        masks = [rng.integers(0, 2, rng.integers(1, 6)).astype(float) for _ in range(5)]
        scores = [rng.normal(size=len(mask)) for mask in masks]
        after = reallocated(masks, scores, count)
        lost = [(one > two).sum() for one, two in zip(masks, after)]
        gained = [(one < two).sum() for one, two in zip(masks, after)]
        assert sum(lost) == sum(gained) <= count
        assert not any(a and b for a, b in zip(lost, gained))
        assert all(mask.any() for mask, more in zip(masks, gained) if more)
        off = np.concatenate([one > two for one, two in zip(masks, after)])
        on, scores = np.concatenate(masks) > 0, np.concatenate(scores)
        assert not off.any() or scores[off].max() < scores[on & ~off].min()
