"""A model of residual branches, and its twin with explicit stops of the gradient."""

import keras
import numpy as np
from cases import shake

import keras_svd_adapters as ksa

COUNT, WIDTH = 4, 6
RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=(32, WIDTH)).astype("float32") for _ in range(2))
DOWN = [f"down_{i}" for i in range(COUNT)]


def branched(optimizer, stopped=()):
    """Residual branches of two projections, all adapted.

    Args:
        optimizer: The optimizer.
        stopped: Numbers of the branches whose gradient an operation stops.
    """
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((WIDTH,))
    for i in range(COUNT):
        hidden = keras.layers.Dense(5, activation="gelu", name=f"up_{i}")(x)
        out = keras.layers.Dense(WIDTH, name=DOWN[i])(hidden)
        x = keras.layers.add([x, keras.ops.stop_gradient(out) if i in stopped else out])
    model = keras.Model(inputs, keras.layers.Dense(WIDTH, name="head")(x))
    trained = ["head", "down_*/bias"]
    ksa.enable(model, ksa.LoRA(rank=2), targets=["up_*", "down_*"], train=trained)
    shake(model, size=0.3, seed=3)
    model.compile(optimizer, "mse")
    return model


def fit(model, epochs, *callbacks, first=0):
    """Four steps an epoch."""
    how = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(X, Y, epochs=epochs, initial_epoch=first, callbacks=list(callbacks), **how)
