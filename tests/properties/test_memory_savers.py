"""What saves memory in Keras leaves the training of adapters as it is."""

import keras
import models
import numpy as np
import pytest
from cases import numpy

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.adapter import Adapter

METHODS = [ksa.LoRA(rank=2), ksa.SVFT("banded", d=1)]
COMPILED = {
    "jit": {"jit_compile": keras.backend.backend() != "torch"},
    "no jit": {"jit_compile": False},
    "eagerly": {"run_eagerly": True},
}


def attention():
    """KerasHub's layers take arguments by name, which Keras cannot rematerialize on JAX."""
    inputs = keras.Input((3, 8))
    x = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    x = keras.layers.Flatten()(keras.layers.Dense(8, activation="gelu")(x))
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    return model, np.random.default_rng(3).normal(size=(4, 3, 8))


def classifier():
    model, _, x = models.classifier(num_layers=1)
    return model, {name: np.concatenate([value, value[::-1]]) for name, value in x.items()}


def trained(method, build=classifier, optimizer=None, batch_size=4, **compiled):
    """The adapter's values after training for two epochs."""
    keras.utils.set_random_seed(0)
    model, x = build()
    keras.utils.set_random_seed(1)
    ksa.enable(model, method, exclude="head" if build is attention else None)
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **compiled)
    y = np.random.default_rng(0).normal(size=(4, 3))
    model.fit(x, y, batch_size=batch_size, epochs=2, shuffle=False, verbose=0)
    return [numpy(weight) for weight in model.trainable_weights]


def alike(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1, np.abs(other).max()))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_rematerialization(method, monkeypatch):
    # In a graph, Keras on TensorFlow rematerializes nothing that takes arguments by name.
    eagerly = keras.backend.backend() == "tensorflow"
    calls, adapt = [], Adapter.adapt
    monkeypatch.setattr(Adapter, "adapt", lambda *a, **k: calls.append(1) or adapt(*a, **k))
    expected = trained(method, attention, run_eagerly=eagerly)
    assert any(np.abs(each).max() > 0 for each in expected)
    without = len(calls)
    with keras.RematScope(mode="full"):
        alike(trained(method, attention, run_eagerly=eagerly), expected)
    if keras.backend.backend() != "jax":  # which traces once and computes twice
        assert len(calls) - without > without


def test_a_penalty_of_inputs_in_a_scope():
    """The term leaves the scope on PyTorch; TensorFlow loses its gradient, as the guide says."""
    method = ksa.methods.MoLA(rank=2, experts=2, top_k=1, balance=0.5)
    if keras.backend.backend() == "jax":
        with (
            keras.RematScope(mode="full"),
            pytest.raises(ValueError, match=r"(?s)balance=0.*Received: "),
        ):
            trained(method, attention)
    elif keras.backend.backend() == "torch":
        with keras.RematScope(mode="full"):
            found = trained(method, attention)
        alike(found, trained(method, attention))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_gradients_that_gather(method):
    gathered = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    alike(trained(method, optimizer=gathered, batch_size=2), trained(method))


@pytest.mark.parametrize("how", COMPILED.values(), ids=COMPILED)
def test_however_it_is_compiled(how):
    alike(trained(METHODS[1], **how), trained(METHODS[1]))
