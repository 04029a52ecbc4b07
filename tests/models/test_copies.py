"""Copies of a model with adapters: with its adapters, or an error."""

import copy
import io
import pickle

import joblib
import keras
import numpy as np
import pytest
from cases import shake

import keras_svd_adapters as ksa

X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


def adapted(sequential=False):
    layers = [
        keras.layers.Dense(8, activation="gelu", name="up"),
        keras.layers.Dense(2, name="head"),
    ]
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers[1](layers[0](inputs)))
    if sequential:
        model = keras.Sequential([keras.Input((6,)), *layers])
    ksa.enable(model, ksa.LoRA(rank=2), targets="up", name="a")
    shake(model)
    ksa.enable(model, ksa.SVFT("banded", d=1), targets="up", name="b", train="head")
    shake(model)
    return model


def by_joblib(model):
    joblib.dump(model, buffer := io.BytesIO())
    buffer.seek(0)
    return joblib.load(buffer)


COPIES = [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy, by_joblib]


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_has_all_adapters_and_learns(copied, sequential):
    model = adapted(sequential)
    model.compile("adam", "mse")
    model.fit(X, np.zeros((4, 2)), verbose=0)
    twin = copied(model)
    assert ksa.status(twin).adapters == ksa.status(model).adapters
    for name in ("b", "a", None):
        for each in (model, twin):
            ksa.set_adapter(each, name)
        expected = model.predict(X, verbose=0)
        np.testing.assert_allclose(twin.predict(X, verbose=0), expected, atol=1e-6)
    ksa.set_adapter(twin, "a")
    twin.compile("adam", "mse")
    twin.fit(X, np.zeros((4, 2)), verbose=0)
    np.testing.assert_array_equal(model.predict(X, verbose=0), expected)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_clone_would_lose_the_adapters(sequential):
    model = adapted(sequential)
    before = model.predict(X, verbose=0)
    with pytest.raises(ValueError, match="would lose the adapters.*copy.deepcopy.*Received:"):
        keras.models.clone_model(model)
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)
    for name in ("a", "b"):
        ksa.delete_adapter(model, name)
    assert keras.models.clone_model(model).count_params() == model.count_params()
