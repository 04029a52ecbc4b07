"""Classes of layers that a user registers, with the axes of their kernels."""

import keras
import numpy as np
import pytest
from cases import batch, close, numpy, shake
from keras import ops

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.layers import registry as kernel_register
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites


@pytest.mark.parametrize("axes", ["smn", "msn", "nsm", "mns"])
def test_stacks_along_any_axis(axes, register):
    class Stack(keras.layers.Layer):
        def build(self, shape):
            sizes = {"s": 3, "m": 4, "n": 5}
            self.w = self.add_weight(shape=[sizes[letter] for letter in axes], name="w")

        def call(self, x):
            return ops.einsum(f"bm,{axes}->bsn", x, self.w)

    ksa.register_kernels(Stack, w=axes)
    layer = Stack()
    layer.build((None, 4))
    x = ops.eye(4)
    before = numpy(layer(x))
    ksa.enable(layer, ksa.SVFT("banded", d=1))
    np.testing.assert_array_equal(numpy(layer(x)), before)
    (site,) = adapted_sites(layer)
    parts = [matrix() for _, matrix in site.matrices()]
    np.testing.assert_array_equal(np.stack(parts), before.transpose(1, 0, 2))
    np.testing.assert_array_equal(np.stack(parts), site.matrix())
    shake(layer)
    y = numpy(layer(x))
    ksa.merge(layer)
    close(numpy(layer(x)), y)


@pytest.fixture
def register(monkeypatch):
    monkeypatch.setattr(kernel_register, "_registered", dict(kernel_register._registered))


class Heads(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(2, shape[-1], 3), name="w")

    def call(self, x):
        return ops.einsum("bi,hio->bho", x, self.w)


def test_registered_layers_are_adapted(register):
    model = keras.Sequential([keras.Input((5,)), Heads(name="heads"), keras.layers.Flatten()])
    assert not find_sites(model)
    ksa.register_kernels(Heads, w="nmn")
    (site,) = find_sites(model)
    assert (site.path, site.kind, site.view.m, site.view.n) == ("heads/w", "Heads", 5, 6)
    ksa.enable(model, ksa.SVF(), targets="w")
    assert numpy(model.trainable_weights[0]).shape == (5,)
    x = batch((3, 5))
    before = numpy(model(x))
    shake(model)
    assert np.abs(numpy(model(x)) - before).max() > 1e-3


def test_an_own_call_of_a_known_class(register):
    class Scaled(keras.layers.Dense):
        def call(self, inputs):
            return 2 * ops.matmul(inputs, self.kernel)

    layer = Scaled(4)
    layer.build((None, 6))
    assert not find_sites(layer)
    ksa.register_kernels(Scaled, kernel="mn")
    ksa.enable(layer, ksa.LoRA(rank=1))
    shake(layer)
    close(numpy(layer(ops.eye(6))), 2 * numpy(layer.kernel))


@pytest.mark.parametrize(
    ("cls", "axes", "what"),
    [
        (Heads, {}, "a letter per axis"),
        (Heads, {"w": "mx"}, "a letter per axis"),
        (Heads, {"w": "mn_"}, "a letter per axis"),
        (Heads, {"w": 3}, "a letter per axis"),
        (Heads, {"w": "smm"}, "a letter per axis"),
        (keras.layers.Dense, {"kernel": "mn"}, "without being registered"),
        (keras.layers.LSTMCell, {"kernel": "mn"}, "already registered"),
        (keras.Model, {"w": "mn"}, "layers of a model"),
        ("Heads", {"w": "mn"}, "class of Keras layers"),
    ],
)
def test_bad_registrations(register, cls, axes, what):
    with pytest.raises(ValueError, match=what) as error:
        ksa.register_kernels(cls, **axes)
    assert "Received: " in str(error.value)


def test_a_name_that_is_no_weight(register):
    ksa.register_kernels(Heads, weight="nmn")
    layer = Heads()
    layer.build((None, 4))
    with pytest.raises(ValueError, match="is not a weight of this layer; its weights are 'w'"):
        ksa.enable(layer, ksa.SVF())


def test_a_property_over_a_weight(register):
    class Hidden(keras.layers.Layer):
        def build(self, shape):
            self._w = self.add_weight(shape=(shape[-1], 3), name="w")

        @property
        def w(self):
            return self._w

        def call(self, x):
            return ops.matmul(x, self._w)

    ksa.register_kernels(Hidden, w="mn")
    layer = Hidden()
    layer.build((None, 4))
    ksa.enable(layer, ksa.LoRA(rank=1))
    shake(layer)
    close(numpy(layer(ops.eye(4))), numpy(layer.w))
    close(numpy(layer.w), numpy(adapted_sites(layer)[0].layer.merged_kernel()))


def test_registered_twice(register):
    ksa.register_kernels(Heads, w="nmn")
    with pytest.raises(ValueError, match="already registered"):
        ksa.register_kernels(Heads, w="nmn")


def test_axes_that_do_not_fit(register):
    ksa.register_kernels(Heads, w="mn")
    layer = Heads()
    layer.build((None, 4))
    with pytest.raises(ValueError, match="axes 'mn'"):
        ksa.enable(layer, ksa.SVF(), targets="w")
