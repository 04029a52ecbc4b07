"""Adapters where layers compute in bfloat16 and float16."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import KERNELS, METHODS, batch, build_layer, combinations, numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels import fused_products as half_precision

TOKENS = 512
SOME = ("tall", "square", "btnh,nhd->btd")
HALF = ("mixed_bfloat16", "bfloat16", "float16")
CASES = {
    name: case
    for name, case in METHODS.items()
    if case.exact_at_start and not case.variant and name != "token_rows"
}
ROWS = [
    pytest.param(CASES[name], kernel, dtype, id=f"{name}-{kernel}-{dtype}")
    for name, kernel, dtype in combinations(
        CASES,
        SOME,
        HALF,
        fits=lambda name, kernel, _: kernel == "square" or not CASES[name].square_only,
    )
]


def many_tokens(kernel, dtype):
    """A layer without bias and activation, and inputs that its dtype holds."""
    build, shape = KERNELS[kernel]
    layer = build_layer(build, dtype)
    layer.activation = None
    if layer.bias is not None:
        layer.bias.assign(np.zeros(layer.bias.shape))
    x = batch((TOKENS, *shape[1:]) if len(shape) == 2 else (TOKENS // shape[1], *shape[1:]))
    return layer, numpy(keras.ops.cast(x, layer.compute_dtype))


def shaken_by(layer, relative):
    """Moves the trained values such that the kernel changes by so much, relative to its norm."""
    values = [numpy(w) for w in layer.trainable_weights]
    size = 1e-3
    for _ in range(12):
        for weight, value in zip(layer.trainable_weights, values, strict=True):
            weight.assign(value)
        shake(layer, size)
        kernel = layer.base_kernel
        delta = numpy(layer.adapter().delta(kernel))
        found = np.linalg.norm(delta) / np.linalg.norm(numpy(kernel))
        size *= (relative / found) ** 0.5  # the change may be a product of three values
    assert 0.8 * relative < found < 1.25 * relative
    return delta


@pytest.mark.parametrize(("case", "kernel", "dtype"), ROWS)
def test_a_change_of_a_thousandth_is_not_lost(case, kernel, dtype):
    layer, x = many_tokens(kernel, dtype)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    before = numpy(model(x)).astype("float64")
    ksa.enable(model, case.method, targets=[layer.name])
    at_start = model(x)
    assert keras.backend.standardize_dtype(at_start.dtype) == layer.compute_dtype
    # One product adds up in another order than two: a few outputs come out a step apart.
    step = {"bfloat16": 2**-8, "float16": 2**-11}[layer.compute_dtype]
    off = np.abs(numpy(at_start) - before)
    assert (off <= 1.01 * step * np.abs(before)).mean() > 0.999
    assert np.linalg.norm(off) < 0.1 * step * np.linalg.norm(before)
    delta = shaken_by(layer, 1e-3)
    view = layer.kernel_view
    rows = numpy(view.flatten_input(keras.ops.convert_to_tensor(x))).reshape(-1, view.m)
    exact = (rows @ view.to_matrix(delta)).astype("float64")
    found = numpy(model(x)).reshape(exact.shape) - before.reshape(exact.shape)
    slope = np.vdot(found, exact) / np.vdot(exact, exact)
    assert case.kept < slope < 1.15


@pytest.mark.parametrize(("name", "dtype"), combinations(CASES, ["mixed_bfloat16", "bfloat16"]))
def test_gradients_of_many_tokens(name, dtype):
    """Through a second adapted layer, so that the gradient of its input counts as well."""
    case = CASES[name]
    sizes = (16, 16, 16) if case.square_only else (12, 40, 16)
    found = []
    for policy in ("float32", dtype):
        layers = [
            keras.layers.Dense(n, dtype=policy, name=f"d{n}_{i}") for i, n in enumerate(sizes[1:])
        ]
        model = keras.Sequential([keras.Input((sizes[0],)), *layers])
        rng = np.random.default_rng(2)
        for weight in model.weights:
            weight.assign(numpy(keras.ops.cast(0.4 * rng.normal(size=weight.shape), "bfloat16")))
        keras.utils.set_random_seed(3)
        ksa.enable(model, case.method, targets=[layer.name for layer in layers], cache=False)
        shake(model, 0.05)
        x, g = batch((TOKENS, sizes[0])), batch((TOKENS, sizes[-1]), seed=8)
        found.append(gradients(model, x, g))
        assert {w.dtype for w in model.trainable_weights} == {"float32"}
    for right, rough in zip(*found, strict=True):
        assert rough.dtype == "float32"
        assert np.linalg.norm(rough - right) < 3e-2 * np.linalg.norm(right)


METHODS_TO_FIT = [ksa.LoRA(rank=4), ksa.DoRA(rank=4), ksa.SVF(), ksa.SVFT(pattern="banded", d=1)]


@pytest.mark.parametrize("method", METHODS_TO_FIT, ids=str)
def test_float16_trains_with_loss_scaling(method):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(16, activation="tanh", dtype="mixed_float16", name="a")]
    layers += [keras.layers.Dense(4, dtype="mixed_float16", name="b")]
    model = keras.Sequential([keras.Input((12,)), *layers])
    ksa.enable(model, method, targets=["a", "b"])
    # The first scales overflow: those steps are left out, and the scale is halved.
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.02), initial_scale=2.0**28
    )
    model.compile(optimizer, "mse")
    x = batch((256, 12))
    y = np.tanh(x[:, :4]) * 0.5
    before = {w.path: numpy(w) for w in model.weights}
    history = model.fit(x, y, batch_size=32, epochs=6, verbose=0).history["loss"]
    assert history[-1] < 0.9 * history[0]
    assert float(keras.ops.convert_to_numpy(optimizer.dynamic_scale)) < 2.0**28
    for weight in model.trainable_weights:
        assert weight.dtype == "float32"
        assert np.isfinite(numpy(weight)).all()
        assert (numpy(weight) != before[weight.path]).any()
    slots = [v for v in optimizer.inner_optimizer.variables if len(v.shape)]
    assert slots
    assert {v.dtype for v in slots} == {"float32"}
    assert keras.backend.standardize_dtype(model(x[:2]).dtype) == "float16"


if keras.backend.backend() == "torch":  # which keeps what it is told to; the others compile

    @pytest.mark.parametrize("method", [*METHODS_TO_FIT, ksa.LoRAXS(rank=2)], ids=str)
    def test_rounding_once_keeps_no_more_for_the_backward_pass(method, monkeypatch):
        import torch

        kept = []
        for many in (10**9, 256):
            monkeypatch.setattr(half_precision, "MANY_TOKENS", many)
            keras.utils.set_random_seed(1)
            layers = [keras.layers.Dense(64, dtype="bfloat16", name=f"d{i}") for i in range(2)]
            model = keras.Sequential([keras.Input((64,)), *layers])
            ksa.enable(model, method, targets=["d0", "d1"], cache=False)
            sizes = {}

            def count(value, sizes=sizes):
                sizes[value.data_ptr()] = value.numel() * value.element_size()
                return value

            with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
                model(batch((TOKENS, 64)))
            kernels = {layer.base_kernel.value.data_ptr() for layer in layers}
            kept.append(sum(size for place, size in sizes.items() if place not in kernels))
        assert kept[1] <= kept[0]
