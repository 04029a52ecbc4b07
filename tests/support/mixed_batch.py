"""A model with two adapters, and a batch whose samples name them."""

import keras
import numpy as np

import keras_svd_adapters as ksa

IDS = ["a", None, "b", "a", "b"]


def small():
    inputs = keras.Input((6, 10))
    x = keras.layers.EinsumDense("btd,dhe->bthe", (None, 3, 4), bias_axes="he", name="heads")(
        inputs
    )
    x = keras.layers.Activation("gelu")(x)
    x = keras.layers.EinsumDense("bthe,hed->btd", (None, 16), name="out")(x)
    x = keras.layers.Dense(16, activation="gelu", name="square")(x)
    return keras.Model(inputs, keras.layers.Dense(7, name="head")(x))


def adapted(model, one, other=None, **targets):
    """The model with adapters `a` and `b` of other values each."""
    for seed, (name, method) in enumerate((("a", one), ("b", other or one))):
        ksa.enable(model, method, name=name, **targets)
        rng = np.random.default_rng(seed)
        for weight in model.trainable_weights:
            weight.assign_add(0.2 * rng.normal(size=weight.shape))
    return model


def batch():
    return np.random.default_rng(3).normal(size=(len(IDS), 6, 10)).astype("float32")


def alone(model, x, ids):
    """Each sample by itself with its adapter."""
    rows = []
    for sample, name in zip(x, ids, strict=True):
        ksa.set_adapter(model, name)
        rows.append(model.predict(sample[None], verbose=0))
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *rows)
