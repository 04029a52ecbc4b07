"""Bottleneck adapters against their equations in float64, and in a model."""

from math import erf

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import (
    KERNELS,
    arrays_of,
    batch,
    build_layer,
    close,
    combinations,
    numpy,
    shake,
    wrapped_layer,
)
from snapshots import refused

import keras_svd_adapters as ksa
from keras_svd_adapters import methods

BOTTLENECKS = {
    "serial": methods.SerialAdapter(size=3, activation="gelu"),
    "serial_normed": methods.SerialAdapter(
        size=3, activation="tanh", layer_norm=True, train_scale=True, scale=0.5
    ),
    "parallel": methods.ParallelAdapter(size=3, activation="silu", scale=4.0),
    "parallel_scaled": methods.ParallelAdapter(size=3, train_scale=True),
    "loretta": methods.LoRETTAAdapter(size=4, tt_rank=2, activation="tanh"),
}
FUNCTIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "gelu": lambda z: z * (1 + np.vectorize(erf)(z / np.sqrt(2))) / 2,
    "silu": lambda z: z / (1 + np.exp(-z)),
    "tanh": np.tanh,
}
X, Y = batch((12, 8)), batch((12, 4), seed=4)


def matrix(v, side, shape):
    """A matrix of a method, or the product of its train, one entry after the other."""
    if side in v:
        return v[side]
    cores = [core for name, core in v.items() if name.startswith(f"tt_{side}_")]
    found = np.ones((1, 1))
    for core in cores:
        found = np.einsum("at,tsu->asu", found, core).reshape(-1, core.shape[2])
    return found.reshape(shape)


def outputs(method, x, K, v):
    y = u = x @ K
    if isinstance(method, methods.ParallelAdapter):
        u = x
    if getattr(method, "layer_norm", False):
        centred = y - y.mean(-1, keepdims=True)
        u = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * v["gain"] + v["shift"]
    down = matrix(v, "down", (u.shape[1], method.size))
    up = matrix(v, "up", (method.size, y.shape[1]))
    h = FUNCTIONS[method.activation](u @ down + v["down_bias"])
    return y + (v["scale"] if method.train_scale else method.scale) * (h @ up + v["up_bias"])


def slope(function, array, places=4, step=1e-6):
    """Central differences of a function at some places of an array."""
    found = {}
    for place in list(np.ndindex(array.shape))[:: max(array.size // places, 1)]:
        ends = []
        for move in (step, -step):
            moved = array.copy()
            moved[place] += move
            ends.append(function(moved))
        found[place] = (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.parametrize(("name", "kernel"), combinations(BOTTLENECKS, KERNELS))
def test_against_closed_form(name, kernel):
    method, (build, shape) = BOTTLENECKS[name], KERNELS[kernel]
    base = build_layer(build)
    base.activation = keras.activations.get("linear")
    x = batch(shape)
    before, kernel = numpy(base(x)), base.kernel.numpy().astype("float64")
    layer = wrapped_layer(method, base)
    np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer, size=0.3)
    adapter, v = arrays_of(layer)
    view = adapter.view
    K = view.to_matrix(kernel)
    rows = numpy(view.flatten_input(keras.ops.convert_to_tensor(x))).reshape(-1, len(K))
    y = numpy(layer(x))

    def of_rows(value):
        return numpy(view.flatten_output(keras.ops.convert_to_tensor(value))).reshape(len(rows), -1)

    bias = 0 if base.bias is None else base.bias.numpy()
    close(of_rows(y - bias), outputs(method, rows.astype("float64"), K, v), 1e-5)

    g = batch(y.shape, seed=4)
    G = of_rows(g)
    for weight, gradient in zip(layer.trainable_weights, gradients(layer, x, g), strict=True):

        def loss(moved, weight=weight):
            return (outputs(method, rows.astype("float64"), K, {**v, weight.name: moved}) * G).sum()

        for place, expected in slope(loss, v[weight.name]).items():
            assert gradient[place] == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_at_the_start_in_bfloat16(name):
    build, shape = KERNELS["nearly_square"]
    layer = build_layer(build, "mixed_bfloat16")
    before = numpy(layer(batch(shape)))
    adapted = wrapped_layer(BOTTLENECKS[name], layer)
    np.testing.assert_array_equal(numpy(adapted(batch(shape))), before)


def build():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(4)]
    )


def test_in_a_model(tmp_path):
    """Each branch has another method; the file, samples and weights know all of them."""
    model = build()
    base = model.predict(X, verbose=0)
    ksa.enable(
        model,
        targets={
            "hidden": methods.ParallelAdapter(size=3, dropout=0.5),
            "*": BOTTLENECKS["serial"],
        },
        name="network",
    )
    model.compile(keras.optimizers.Adam(8e-3), "mse")
    losses = model.fit(X, Y, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    trained = model.predict(X, verbose=0)
    np.testing.assert_array_equal(model.predict(X, verbose=0), trained)  # no dropout
    ksa.save_adapter(model, tmp_path / "network.keras")

    other = build()
    ksa.load_adapter(other, tmp_path / "network.keras", name="network")
    np.testing.assert_array_equal(other.predict(X, verbose=0), trained)
    found = ksa.predict(other, X, ["network", None] * 6)
    np.testing.assert_allclose(found[::2], trained[::2], atol=1e-6)
    np.testing.assert_allclose(found[1::2], base[1::2], atol=1e-6)
    with refused(model, "its network is not linear.*save_adapter"):
        ksa.merge(model)
    ksa.set_adapter(model, None)
    np.testing.assert_array_equal(model.predict(X, verbose=0), base)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 0}, "`size` must be a positive integer"),
        ({"activation": "softmax"}, "`activation` must be one of"),
        ({"scale": 0.0}, "`scale` must be positive"),
        ({"dropout": 1.0}, "`dropout` must be in"),
    ],
)
def test_hyperparameters(arguments, match):
    for method in (methods.SerialAdapter, methods.ParallelAdapter):
        with pytest.raises(ValueError, match=f"{match}.*Received"):
            method(**arguments)


def test_a_size_that_no_train_can_have():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(23), keras.layers.Dense(4)])
    with refused(model, "23 has a prime factor above 16"):
        ksa.enable(model, methods.LoRETTAAdapter())
