"""Methods that adapt the bias of a layer together with its kernel, by the same array."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import batch, numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters.methods import IA3
from keras_svd_adapters.models.sites.search import adapted_sites

L = keras.layers
IDS = ["a", None, "b", "a"]


def build():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8))
    x = L.Dense(8, "tanh", name="square")(inputs)
    x = L.EinsumDense("btd,dhe->bthe", (None, 2, 8), bias_axes="he", name="wide")(x)
    x = L.Dense(4, name="narrow")(L.Reshape((6, 16))(x))
    model = keras.Model(inputs, L.Dense(3, use_bias=False, name="head")(x))
    for weight in model.weights:
        weight.assign_add(0.1 * np.random.default_rng(1).normal(size=weight.shape))
    return model


def scaled(model, adapter):
    """A plain model with the scaled kernels and biases of an adapter."""
    plain = build()
    for name in ("square", "wide"):
        scale = getattr(model.get_layer(name), f"adapter_{adapter}").arrays["scaling"]
        for weight in plain.get_layer(name).weights:
            last = np.reshape(numpy(scale), plain.get_layer(name).bias.shape)
            weight.assign(numpy(weight) * last)
    scale = getattr(model.get_layer("narrow"), f"adapter_{adapter}").arrays["scaling"]
    kernel = plain.get_layer("narrow").kernel
    kernel.assign(numpy(kernel) * numpy(scale)[:, None])
    return plain


def adapted(*names):
    model = build()
    for seed, name in enumerate(names):
        ksa.enable(model, IA3(bias=True), name=name)
        shake(model, seed=seed)
    return model


def test_one_array_for_a_kernel_and_its_bias():
    model = adapted("a")
    paths = [site.path for site in adapted_sites(model)]
    assert paths == ["square", "wide", "narrow", "square/bias", "wide/bias"]
    assert [tuple(w.shape) for w in model.trainable_weights] == [(8,), (16,), (16,)]
    plan = ksa.plan(build(), IA3(bias=True))
    assert plan.trainable_parameters == ksa.status(model).trainable_parameters == 40
    assert plan.trainable_parameters == ksa.plan(build(), IA3()).trainable_parameters


def test_outputs_and_merged_weights():
    model, x = adapted("a"), batch((4, 6, 8))
    plain = scaled(model, "a")
    expected = plain.predict(x, verbose=0)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    ksa.merge(model)
    for ours, theirs in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_allclose(numpy(ours), numpy(theirs), atol=1e-6)
    ksa.unmerge(model)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)


def test_the_gradient_holds_the_part_of_the_bias():
    model, x, g = adapted("a"), batch((4, 6, 8)), batch((4, 6, 3), seed=4)
    found = gradients(model, x, g)
    for variable, gradient in zip(model.trainable_weights, found, strict=True):
        start, step = numpy(variable), 1e-2
        for place in (0, 3):
            ends = []
            for sign in (1, -1):
                variable.assign(start + sign * step * np.eye(len(start))[place])
                ends.append(float((numpy(model(x)).astype("float64") * g).sum()))
            variable.assign(start)
            slope = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(gradient[place], slope, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("way", ["file", "whole"])
def test_files(way, tmp_path):
    model, x = adapted("a"), batch((4, 6, 8))
    expected = model.predict(x, verbose=0)
    if way == "file":
        ksa.save_adapter(model, tmp_path / "a.keras")
        loaded = build()
        ksa.load_adapter(loaded, tmp_path / "a.keras")
    else:
        model.save(tmp_path / "a.keras")
        loaded = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    assert len(loaded.trainable_weights) == 3


def test_mixed_in_a_batch():
    model, x = adapted("a", "b"), batch((4, 6, 8))
    mixed = ksa.predict(model, x, IDS)
    for row, name in enumerate(IDS):
        ksa.set_adapter(model, name)
        alone = model.predict(x[row : row + 1], verbose=0)
        np.testing.assert_allclose(mixed[row : row + 1], alone, atol=1e-5)
