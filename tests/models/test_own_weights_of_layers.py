"""Weights of unusual layers that several adapters train."""

import keras
import numpy as np
import pytest
from cases import shake
from mixed_batch import alone
from own_weights import add

import keras_svd_adapters as ksa


class Reads(keras.Model):
    """Reads the kernel of a layer outside of its `call`."""

    def __init__(self):
        super().__init__()
        self.up = keras.layers.Dense(6, name="up")
        self.table = keras.layers.Dense(6, use_bias=False, name="table")

    def build(self, shape):
        self.up.build(shape)
        self.table.build(shape)
        self.built = True

    def call(self, x):
        return self.table(self.up(x)) @ keras.ops.transpose(self.table.kernel)


def test_a_weight_read_outside_of_its_layer_cannot_be_mixed():
    model, x = Reads(), np.ones((4, 6), "float32")
    model(x)
    for name in "ab":
        add(model, name, train="table")
    with pytest.raises(ValueError, match="read outside of its layer"):
        ksa.predict(model, x, ["a", "b", "a", "b"])
    assert model.predict(x, verbose=0).shape == (4, 6)


def test_two_weights_of_one_name():
    class Two(keras.layers.Layer):
        def build(self, shape):
            self.one, self.other = (
                self.add_weight(name="scale", shape=(8,), initializer="ones") for _ in range(2)
            )

        def call(self, x):
            return x * self.one + self.other

    inputs = keras.Input((6,))
    model = keras.Model(inputs, Two(name="two")(keras.layers.Dense(8, name="up")(inputs)))
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    for seed, name in enumerate("ab"):
        add(model, name, train="two")
        shake(model, seed=seed)
    ids = ["a", "b", "a", "b"]
    np.testing.assert_allclose(ksa.predict(model, x, ids), alone(model, x, ids), atol=1e-5)
