"""LoRA-prune: masks of groups of inputs by the gradients of the factors, against float64."""

import keras
import numpy as np
import pytest
from cases import batch, close, numpy, shake
from numpy_training import LAYERS, SGD, Adam, Loop, adapted, arrays_of, fit, optimizer

import keras_svd_adapters as ksa
from keras_svd_adapters import methods


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_lora_prune(kind):
    schedule = ksa.LoRAPruneSchedule(begin=1, end=7, every=3)
    rate = 3e-4 if kind is SGD else 1e-2
    method = methods.LoRAPrune(rank=2, alpha=4, share=0.4, group=2)
    model = adapted(method, optimizer(kind, schedule, rate), layers=LAYERS)
    kernels, last = {}, {}

    def form(v):
        K, p, A, B = kernels[id(v)], v["mask"][:, None], v["lora_a"], v["lora_b"]

        def gradients(G):
            last[id(v)] = {"lora_a": 2 * p * G @ B.T, "lora_b": 2 * A.T @ (p * G)}
            return last[id(v)]

        return p * (K + 2 * A @ B) - K, gradients

    loop = Loop(model, LAYERS, form, kind(rate))
    for layer, v in loop.v.items():
        kernels[id(v)] = numpy(model.get_layer(layer).base_kernel_value()).astype("float64")

    def prune(t):
        if t not in (4, 7):
            return
        count = round(3 * (0.4 + 0.6 * (1 - (t - 1) / 6) ** 3))
        for v in loop.v.values():
            (A, dA), (B, dB) = ((v[k], last[id(v)][k]) for k in ("lora_a", "lora_b"))
            W = kernels[id(v)] + 2 * A @ B
            sizes = np.abs((A @ B - (A - dA) @ (B - dB)) * W)
            groups = np.array([sizes[i : i + 2].sum() for i in (0, 2, 4)])
            v["importance"] = 0.9 * v["importance"] + 0.1 * groups / np.linalg.norm(groups)
            scores = np.where(v["mask"][::2] > 0, v["importance"], -1)
            v["mask"] = np.repeat(scores >= np.sort(scores)[-count], 2).astype(float)

    loop.run(12, before=prune)
    fit(model, 12, schedule)
    loop.check()
    assert [arrays_of(model, layer)["mask"].sum() for layer in LAYERS] == [2, 2]  # 1 of 3 groups


def feed_forward(inner):
    layers = [
        keras.layers.Dense(n, a, name=k) for n, a, k in ((inner, "gelu", "up"), (5, None, "down"))
    ]
    return keras.Sequential([keras.Input((6,)), *layers])


def test_a_masked_model_is_one_without_these_channels(tmp_path):
    model, x, kept = feed_forward(8), batch((4, 6)), [0, 3, 4, 7]
    for weight in model.weights:  # biases as well
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    small = feed_forward(4)
    ksa.enable(model, methods.LoRAPrune(rank=2), targets="down")
    shake(model, 0.3)
    adapter = model.get_layer("down").adapter()
    adapter.mask.assign(np.isin(np.arange(8), kept).astype("float32"))
    K = numpy(model.get_layer("down").base_kernel_value()) + 8 * numpy(adapter.lora_a) @ numpy(
        adapter.lora_b
    )
    up = model.get_layer("up")
    values = [numpy(up.kernel)[:, kept], numpy(up.bias)[kept], K[kept]]
    small.set_weights([*values, numpy(model.get_layer("down").bias)])
    expected = small.predict(x, verbose=0)
    close(model.predict(x, verbose=0), expected)
    ksa.save_adapter(model, tmp_path / "a.keras")
    ksa.delete_adapter(model, "default")
    ksa.load_adapter(model, tmp_path / "a.keras", verbose=0)
    close(model.predict(x, verbose=0), expected)
    ksa.merge(model)
    close(model.predict(x, verbose=0), expected)
    assert not numpy(model.get_layer("down").kernel)[1].any()


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"share": 0.0}, r"in \(0, 1\]"),
        ({"group": 0}, "positive integer"),
        ({"group": 3}, "divide"),
    ],
)
def test_requests_that_cannot_be(how, match):
    with pytest.raises(ValueError, match=f"{match}.*Received: "):
        ksa.enable(feed_forward(8), methods.LoRAPrune(rank=2, **how), targets="down")
