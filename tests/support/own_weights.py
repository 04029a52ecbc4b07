"""A model with several adapters that train the same weights."""

import keras
import numpy as np
from cases import numpy, shake

import keras_svd_adapters as ksa

X = np.random.default_rng(0).integers(0, 9, (6, 5))


def plain():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(9, 8, name="table")(inputs)
    gru = keras.layers.GRU(8, recurrent_initializer="uniform", return_sequences=True, name="gru")
    x = gru(x)
    x = keras.layers.Dense(8, activation="gelu", name="up")(x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.BatchNormalization(name="batch")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def add(model, name, **how):
    method = ksa.SVFT("banded", d=1) if name == "a" else ksa.LoRA(rank=2)
    ksa.enable(model, method, targets="up", name=name, verbose=0, **how)


def adapted(how):
    """Adapters `a` and `b` train the same weights, `c` none; each with values of its own."""
    model = plain()
    for seed, name in enumerate("abc"):
        add(model, name, **(how if name != "c" else {}))
        shake(model, seed=seed)
    ksa.set_adapter(model, "b")
    return model


def outputs(model, names=("a", "b")):
    found = {}
    for name in names:
        ksa.set_adapter(model, name)
        found[name] = model.predict(X, verbose=0)
    return found


def same(found, expected, atol=1e-5):
    assert found.keys() == expected.keys()
    for name, y in expected.items():
        np.testing.assert_allclose(found[name], y, atol=atol, err_msg=name)


def head(model):
    layer = model.get_layer("head")
    return [numpy(layer.kernel), numpy(layer.bias)]
