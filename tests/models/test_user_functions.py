"""Functions that users compile themselves: told once that they go on with the old adapter."""

import warnings
from contextlib import nullcontext

import keras
import numpy as np
import pytest
from cases import numpy, shake

import keras_svd_adapters as ksa

X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
BACKEND = keras.backend.backend()


def adapted():
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="gelu", name="up")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="down")(x))
    for name in "ab":
        ksa.enable(model, ksa.LoRA(rank=2), targets="*", name=name, verbose=0)
        shake(model)
    return model


def compiled(function):
    if BACKEND == "torch":
        import torch

        return torch.compile(function, backend="eager")
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


def test_a_switch_tells_once_where_the_function_is():
    model = adapted()
    function = compiled(lambda x: model(x))
    function(X)
    if BACKEND == "torch":  # traces again by itself
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ksa.set_adapter(model, "a")
        np.testing.assert_allclose(numpy(function(X)), model.predict(X, verbose=0), atol=1e-6)
        return
    with pytest.warns(UserWarning, match=r"goes on with the adapter 'b'.*\.py:\d+$") as told:
        ksa.set_adapter(model, "a")
    assert len(told) == 1
    assert __file__ in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ksa.set_adapter(model, "b")


def test_gradients_that_are_compiled():
    model = adapted()
    if BACKEND == "torch":
        values, step = (), lambda: keras.ops.sum(model(X) ** 2).backward()  # as it is
    elif BACKEND == "jax":
        import jax

        values = (
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
        )

        def loss(trained, frozen):
            return keras.ops.sum(model.stateless_call(trained, frozen, X)[0] ** 2)

        jax.grad(loss)(*values)  # is not compiled
        step = jax.jit(jax.grad(loss))
    else:
        import tensorflow as tf

        values = ()

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                y = keras.ops.sum(model(X) ** 2)
            return tape.gradient(y, [v.value for v in model.trainable_variables])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ksa.set_adapter(model, "a")
        ksa.set_adapter(model, "b")
    step(*values)
    goes_on = pytest.warns(UserWarning, match="goes on with the adapter 'b'")
    with nullcontext() if BACKEND == "torch" else goes_on:
        ksa.set_adapter(model, "a")


class OwnStep(keras.Model):
    """A model around an adapted one, whose steps call it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


def test_what_keras_compiles_needs_no_word(tmp_path):
    model = adapted()
    around = keras.Sequential([model, keras.layers.Dense(1)])
    own = OwnStep(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "A function that you compiled")
        for name, each in zip("aba", (model, around, own), strict=True):
            each.compile("sgd", "mse", jit_compile=False)
            each.fit(X, np.zeros((4, 1)), verbose=0)
            each.evaluate(X, np.zeros((4, 1)), verbose=0)
            each.predict(X, verbose=0)
            each(X)
            ksa.predict(model, X, ["a", "b", None, "b"])
            keras.Model(model.inputs, model(model.inputs))
            ksa.set_adapter(model, name)
        if BACKEND != "torch":
            model.export(tmp_path / "saved", verbose=False)
            ksa.set_adapter(model, "b")
