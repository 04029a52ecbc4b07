"""Training of one adapted kernel in float64 NumPy, for rules and schedules to compare with."""

import keras
import numpy as np
from cases import shake

import keras_svd_adapters as ksa

M, N, SAMPLES = 6, 5, 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=(SAMPLES, M)).astype("float32")
Y = RNG.normal(size=(SAMPLES, N)).astype("float32")


def adapted(method, optimizer, shaken=True, **how):
    """A model of one adapted kernel; its loss is half of the sum of squares over all samples."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((M,)), keras.layers.Dense(N, name="up", use_bias=False)])
    ksa.enable(model, method, targets="up")
    if shaken:
        shake(model, size=0.3, seed=3)
    model.compile(optimizer, loss, **how)
    return model


def loss(y, predicted):
    return keras.ops.sum(keras.ops.square(y - predicted), axis=-1) * (SAMPLES / 2)


def arrays_of(model):
    """The arrays of the adapter, in float64."""
    arrays = model.get_layer("up").adapter().arrays
    return {k: keras.ops.convert_to_numpy(v).astype("float64") for k, v in arrays.items()}


def fit(model, steps, *callbacks, batch_size=SAMPLES, first=0):
    """Train some steps, by default each on all samples."""
    model.fit(
        X,
        Y,
        batch_size=batch_size,
        epochs=steps,
        initial_epoch=first,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


class Adam:
    """The update of Adam, for each array."""

    def __init__(self, rate):
        self.rate, self.m, self.v, self.count = rate, {}, {}, {}

    def __call__(self, name, value, gradient):
        t = self.count[name] = self.count.get(name, 0) + 1
        m = self.m[name] = 0.9 * self.m.get(name, 0) + 0.1 * gradient
        v = self.v[name] = 0.999 * self.v.get(name, 0) + 0.001 * gradient**2
        alpha = self.rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return value - alpha * m / (np.sqrt(v) + 1e-7)


class SGD:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, name, value, gradient):
        return value - self.rate * gradient


def kernel_gradient(model, delta):
    """The gradient of the loss for the kernel plus a delta."""
    kernel = keras.ops.convert_to_numpy(model.get_layer("up").base_kernel_value())
    x, y = X.astype("float64"), Y.astype("float64")
    return x.T @ (x @ (kernel + delta) - y)


def lora_gradients(model, v, scale=1.0):
    """The gradients of both factors of LoRA."""
    G = scale * kernel_gradient(model, scale * v["lora_a"] @ v["lora_b"])
    return {"lora_a": G @ v["lora_b"].T, "lora_b": v["lora_a"].T @ G}
