"""Models around one layer, and their optimizer."""

import keras

RATE = 1e-2


def compiled(model, optimizer=None):
    model.compile(optimizer=optimizer or keras.optimizers.Adam(RATE), loss="mse")
    return model


def around(layer, shape):
    return keras.Sequential([keras.Input(shape[1:]), layer])
