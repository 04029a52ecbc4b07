"""Training of one adapted kernel in float64 NumPy, for rules and schedules to compare with."""

import keras
import numpy as np
from cases import shake

import keras_svd_adapters as ksa

M, N, SAMPLES = 6, 5, 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=(SAMPLES, M)).astype("float32")
Y = RNG.normal(size=(SAMPLES, N)).astype("float32")


LAYERS = ("up", "side")


def adapted(method, optimizer, shaken=True, layers=("up",), **how):
    """A model that sums adapted kernels; its loss is half of the sum of squares."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((M,))
    parts = [keras.layers.Dense(N, name=name, use_bias=False)(inputs) for name in layers]
    model = keras.Model(inputs, parts[0] if len(parts) == 1 else keras.layers.add(parts))
    ksa.enable(model, method, targets=list(layers), calibrate=X if method.needs else None)
    if shaken:
        shake(model, size=0.3, seed=3)
    model.compile(optimizer, loss, **how)
    return model


def loss(y, predicted):
    return keras.ops.sum(keras.ops.square(y - predicted), axis=-1) * (SAMPLES / 2)


def arrays_of(model, layer="up"):
    """The arrays of the adapter, in float64."""
    arrays = model.get_layer(layer).adapter().arrays
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
    """The gradient of the loss for the sum of the kernels plus a delta."""
    layers = [layer for layer in model.layers if layer.name in LAYERS]
    kernel = sum(keras.ops.convert_to_numpy(layer.base_kernel_value()) for layer in layers)
    x, y = X.astype("float64"), Y.astype("float64")
    return x.T @ (x @ (kernel + delta) - y)


def lora_gradients(model, v):
    """The gradients of both factors of LoRA."""
    G = kernel_gradient(model, v["lora_a"] @ v["lora_b"])
    return {"lora_a": G @ v["lora_b"].T, "lora_b": v["lora_a"].T @ G}


def optimizer(kind, schedule, rate):
    """A Keras optimizer with the rules of a schedule."""
    inner = getattr(keras.optimizers, kind.__name__)(rate, name="inner")
    rules = schedule.rules()
    return ksa.rules(inner, rules) if rules else inner


class Loop:
    """A training loop in float64, with a sensitivity and an uncertainty of each value.

    Args:
        model: A model of `adapted`, whose values start the loop.
        layers: Names of its layers.
        form: Function from the arrays of a kernel to its delta, and to a function from the
            gradient of the kernel to those of the arrays.
        step: `SGD` or `Adam`.
        decays: The parts of sensitivity and uncertainty that a step keeps.
    """

    def __init__(self, model, layers, form, step, decays=(0.8, 0.8)):
        self.model, self.form, self.step, self.decays = model, form, step, decays
        self.v = {layer: arrays_of(model, layer) for layer in layers}
        self.S = {x: {k: np.zeros_like(a) for k, a in v.items()} for x, v in self.v.items()}
        self.U = {x: {k: np.zeros_like(a) for k, a in v.items()} for x, v in self.v.items()}

    def run(self, steps, before=lambda t: None, after=lambda t: None, trains=lambda *_: True):
        keep, keep_far = self.decays
        for t in range(steps):
            before(t)
            forms = {layer: self.form(v) for layer, v in self.v.items()}
            G = kernel_gradient(self.model, sum(delta for delta, _ in forms.values()))
            for layer, v in self.v.items():
                for name, g in forms[layer][1](G).items():
                    now, S, U = np.abs(v[name] * g), self.S[layer], self.U[layer]
                    S[name] = keep * S[name] + (1 - keep) * now
                    U[name] = keep_far * U[name] + (1 - keep_far) * np.abs(now - S[name])
                    if trains(layer, name):
                        v[name] = self.step((layer, name), v[name], g)
            after(t)

    def check(self, atol=1e-5):
        for layer, v in self.v.items():
            for name, found in arrays_of(self.model, layer).items():
                np.testing.assert_allclose(found, v[name], atol=atol, err_msg=f"{layer}/{name}")


def masked(scale):
    def form(v):
        A, B = v["lora_a"] * v["mask_a"], v["lora_b"] * v["mask_b"]

        def gradients(G):
            return {
                "lora_a": scale * G @ B.T * v["mask_a"],
                "lora_b": scale * A.T @ G * v["mask_b"],
            }

        return scale * A @ B, gradients

    return form


def gated(v):
    """The form with a scale of 1."""
    A, B, e = v["lora_a"], v["lora_b"], v["gate"] * v["mask"]

    def gradients(G):
        return {
            "lora_a": G @ B.T * e,
            "gate": np.einsum("mr,mn,rn->r", A, G, B) * v["mask"],
            "lora_b": (A * e).T @ G,
        }

    return A * e @ B, gradients


def aflora(v):
    A, B, d, b = v["lora_a"], v["lora_b"], v["d"], v["v"]

    def gradients(G):
        return {
            "lora_a": G @ (B * b).T * d * v["mask_a"],
            "lora_b": (A * d).T @ G * b * v["mask_b"],
            "d": np.einsum("mr,mn,rn->r", A, G, B * b),
            "v": np.einsum("mr,mn,rn->n", A * d, G, B),
        }

    return A * d @ B * b, gradients
