"""A model whose adapters restart, and what a restart changes."""

import keras
import numpy as np

import keras_svd_adapters as ksa
from keras_svd_adapters.training.steps import state_of

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 9)).astype("float32"), RNG.normal(size=(24, 7)).astype("float32")
NAMES = ("up", "side", "down")


def adapted(method, optimizer, names=NAMES):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((9,))
    for name in names:
        x = keras.layers.Dense(7, name=name, activation="tanh")(x)
    model = keras.Model(inputs, x)
    ksa.enable(model, method, targets=list(names))
    model.compile(optimizer, "mse")
    return model


def fit(model, epochs, *callbacks, first=0):
    """Four steps an epoch."""
    model.fit(
        X,
        Y,
        batch_size=6,
        epochs=epochs,
        initial_epoch=first,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


def arrays(model, name="up"):
    found = model.get_layer(name).adapter().arrays
    return {k: keras.ops.convert_to_numpy(v).astype("float64") for k, v in found.items()}


class Watched(ksa.Restarts):
    """Restarts, with the outputs around each and the state of the optimizer after it."""

    def on_step(self, step):
        model = self.model
        before = keras.ops.convert_to_numpy(model(X))
        super().on_step(step)
        jump = np.abs(keras.ops.convert_to_numpy(model(X)) - before).max()
        drawn = [each.arrays[name] for each in self.adapters() for name in ("lora_a", "lora_b")]
        slots = [slot for array in drawn for slot in state_of(model.optimizer, array)]
        left = max((float(np.abs(keras.ops.convert_to_numpy(x)).max()) for x in slots), default=0.0)
        self.seen = [*getattr(self, "seen", []), (step, jump, left, len(slots))]
