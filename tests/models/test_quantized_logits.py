"""Gradients through logits that a quantized table makes."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import batch, combinations, numpy, shake
from keras.quantizers import AbsMaxQuantizer, Int4QuantizationConfig
from quantized_layers import norm

import keras_svd_adapters as ksa

LOGITS = {
    "int8": ("int8", None),
    "int4": (
        "int4",
        Int4QuantizationConfig(block_size=None, activation_quantizer=AbsMaxQuantizer(axis=-1)),
    ),
}


@pytest.mark.parametrize(("mode", "tied", "cap"), combinations(LOGITS, [True, False], [None, 3.0]))
def test_logits_of_integers_have_the_gradient_of_floats(mode, tied, cap):
    table = keras.layers.ReversibleEmbedding(20, 8, tie_weights=tied, logit_soft_cap=cap)
    table.build()
    for weight in table.weights:
        weight.assign(batch(weight.shape, seed=3))

    class Logits(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.table = table

        def call(self, x):
            return self.table(x, reverse=True)

    before = keras.layers.Dense(8, name="before")
    model = keras.Sequential([keras.Input((6,)), before, Logits()])
    how, config = LOGITS[mode]
    table.quantize(how, config=config)
    plain = type(table)
    ksa.enable(model, ksa.LoRA(rank=2), targets="before")
    shake(model)
    x, g = batch((5, 6)), batch((5, 20), seed=9)
    object.__setattr__(table, "logit_soft_cap", None)
    floats = numpy(table(keras.ops.eye(8), reverse=True))
    object.__setattr__(table, "logit_soft_cap", cap)
    slope = 1.0 if cap is None else 1 - np.tanh(numpy(before(x)) @ floats / cap) ** 2
    expected = gradients(before, x, (g * slope) @ floats.T)
    for found, right in zip(gradients(model, x, g), expected, strict=True):
        assert norm(found, right) < 2e-2
    ksa.delete_adapter(model, "default")
    assert type(table) is plain


def test_logits_of_integer_weights_alone_are_left_as_they_are():
    """Keras rounds nothing there but the weights, so their gradient is right."""
    table = keras.layers.ReversibleEmbedding(20, 8)
    table.build()
    table.quantize("int4", config=Int4QuantizationConfig(block_size=None))
    plain = type(table)
    model = keras.Sequential([keras.Input((6,), dtype="int32"), table, keras.layers.Dense(3)])
    ksa.enable(model, ksa.LoRA(rank=2), targets="dense*")
    assert type(table) is plain


def test_logits_around_the_adapted_part_have_a_gradient():
    table = keras.layers.ReversibleEmbedding(20, 8)
    table.build()
    table.quantize("int8")

    class Logits(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = table
            self.inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="before")])

        def call(self, x):
            return self.table(self.inner(x), reverse=True)

    model = Logits()
    model(batch((5, 6)))
    ksa.enable(model.inner, ksa.LoRA(rank=2), targets="before")
    shake(model.inner)
    x, g = batch((5, 6)), batch((5, 20), seed=9)
    floats = numpy(table(keras.ops.eye(8), reverse=True))
    expected = gradients(model.inner, x, g @ floats.T)
    for found, right in zip(gradients(model, x, g), expected, strict=True):
        assert norm(found, right) < 2e-2
