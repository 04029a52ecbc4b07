"""The model of the contract, and its adapters."""

import keras
import numpy as np
import pytest
from cases import METHODS, shake

import keras_svd_adapters as ksa

CORE = {
    name: case.method
    for name, case in METHODS.items()
    if not case.variant and name != "token_rows" and not case.square_only
}
every_method = pytest.mark.parametrize("method", CORE.values(), ids=CORE)
X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 3)).astype("float32")


def plain(dtype="float32"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(12, activation="gelu", name="up", dtype=dtype)(inputs)
    x = keras.layers.Reshape((3, 4))(x)
    x = keras.layers.EinsumDense("btd,de->bte", (3, 8), bias_axes="e", name="mix")(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def adapted(method, name="default", model=None, **how):
    model = model or plain()
    ksa.enable(model, method, targets=["up", "mix"], name=name, verbose=0, **how)
    return model


def moved(method, **how):
    model = adapted(method, **how)
    shake(model)
    return model


def predicted(model):
    return model.predict(X, verbose=0)


def close(found, expected, atol=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
