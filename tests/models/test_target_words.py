"""The words for parts of a model: `attention`, `mlp` and `all`."""

import re

import keras
import models
import numpy as np
import pytest
from backbones import BACKBONES
from target_paths import paths

import keras_svd_adapters as ksa

pytestmark = pytest.mark.backend_free("patterns are matched with names")


@pytest.mark.parametrize("family", models.FAMILIES)
def test_words_for_parts_of_the_blocks(family):
    backbone, _ = models.FAMILIES[family]()
    attention, mlp = paths(backbone, targets="attention"), paths(backbone, targets="mlp")
    assert sorted(attention + mlp) == sorted(paths(backbone))
    assert len(attention) == 8
    assert not any(re.search("feedforward|ffw|mlp", path) for path in attention)
    assert paths(backbone, targets="mlp", exclude="attention") == mlp
    assert set(paths(backbone, targets=["attention", "mlp"])) == set(attention + mlp)


def test_a_block_that_is_called_attention():
    backbone, _ = BACKBONES["DebertaV3Backbone"]()
    assert "attention" in type(backbone.layers[-1]).__name__.lower() + paths(backbone)[0]
    mlp = paths(backbone, targets="mlp")
    assert len(mlp) == 4
    assert all("feedforward" in path for path in mlp)
    assert len(paths(backbone, targets="attention")) == 8


def test_an_attention_layer_alone():
    layer = keras.layers.MultiHeadAttention(2, 4)
    layer(keras.ops.ones((1, 3, 8)), keras.ops.ones((1, 3, 8)))
    assert len(paths(layer, targets="attention")) == 4


def classifier_that_ends_in(*after):
    backbone, _ = models.bert()
    x = keras.layers.Flatten()(backbone.output["sequence_output"][:, 0])
    for layer in after:
        x = layer(x)
    return keras.Model(backbone.input, x)


@pytest.mark.parametrize(
    "after",
    [
        lambda: [keras.layers.Dense(3, name="head")],
        lambda: [keras.layers.Dense(3, name="head"), keras.layers.Activation("softmax")],
        lambda: [keras.layers.Dense(6, name="head"), keras.layers.Reshape((2, 3))],
        lambda: [keras.Sequential([keras.layers.Dense(3, name="head"), keras.layers.Softmax()])],
    ],
)
def test_all_is_every_kernel_but_the_head(after):
    model = classifier_that_ends_in(*after())
    every = {site.path for site in ksa.targets(model).known if not site.host.is_lookup}
    head = every - set(paths(model, targets="all"))
    assert [path.split("/")[-1] for path in head] == ["head"]


def test_words_warn_of_what_they_leave_out_and_globs_refuse():
    layers = [keras.layers.Conv2D(4, 1, name=f"conv_{i}") for i in range(2)]
    grouped = keras.layers.Conv2D(4, 1, groups=2, name="grouped")
    head = [keras.layers.Flatten(), keras.layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((2, 2, 4)), *layers, grouped, *head])
    with pytest.warns(UserWarning, match=r"`grouped`: it has a kernel for each(.|\n)*'all'"):
        assert paths(model, targets="all") == ["conv_0", "conv_1"]
    with pytest.raises(ValueError, match="`grouped` cannot be adapted.*Leave it out with `excl"):
        paths(model, targets="*")
    assert paths(model, targets="*", exclude="grouped") == ["conv_0", "conv_1", "head"]


def test_a_layer_of_that_name_comes_first():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, name="mlp"),
            keras.layers.Dense(4),
            keras.layers.Dense(2),
        ]
    )
    assert paths(model, targets="mlp") == ["mlp"]
    with pytest.raises(ValueError, match="matches no layer.*(.|\n)*Received: targets='attention'"):
        paths(model, targets="attention")


@pytest.mark.parametrize(
    "attention",
    [
        lambda: keras.layers.MultiHeadAttention(2, 4, name="mha"),
        lambda: keras.layers.GroupQueryAttention(4, 4, 2, name="gqa"),
    ],
)
def test_the_attention_of_keras(attention):
    inputs = keras.Input((3, 8))
    x = attention()(inputs, inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    y = model(keras.ops.ones((1, 3, 8)))
    assert len(paths(model, targets="attention")) == 4
    ksa.enable(model, ksa.SVFT("banded", d=1), targets="attention")
    assert (models.output(model(keras.ops.ones((1, 3, 8)))) == models.output(y)).all()
    assert len(model.trainable_weights) == 4


def test_without_a_layer_that_makes_the_output_the_last_is_the_head():
    class Scaled(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (keras.layers.Dense(4, name=name) for name in "abc")

        def call(self, x):
            return 2 * self.c(self.b(self.a(x)))

    model = Scaled()
    model(np.ones((1, 4)))
    assert paths(model, targets="all") == ["a", "b"]
