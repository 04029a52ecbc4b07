"""Patterns find what they name, and say so when they find nothing."""

import re

import keras
import models
import numpy as np
import pytest
from backbones import BACKBONES

import keras_svd_adapters as ksa

pytestmark = pytest.mark.backend_free("patterns are matched with names")


def paths(model, **how):
    return [site.path for site in ksa.plan(model, ksa.SVF(), **how).sites]


def test_default_is_every_kernel_inside_the_blocks():
    backbone, _ = models.bert()
    found = paths(backbone)
    assert len(found) == 12
    assert all(path.startswith("transformer_layer_") for path in found)
    assert len(paths(models.llama()[0])) == 14
    assert len(paths(models.gemma3()[0])) == 14
    assert len(paths(models.vit()[0])) == 12
    model, _, _ = models.classifier()
    assert found == paths(model)


def test_default_without_blocks_leaves_out_the_head():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="hidden")(inputs)
    outputs = keras.layers.Dense(2, name="aaa")(hidden)
    model = keras.Model(inputs, outputs)
    assert paths(model) == ["hidden"]
    assert paths(model, targets="aaa") == ["aaa"]
    with pytest.raises(ValueError, match=r"No layer is left to adapt(.|\n)*Received: targets=None"):
        paths(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("query", 2),
        ("transformer_layer_0/self_attention_layer/query", 1),
        ("self_attention_layer/query", 2),
        ("transformer_layer_0/*", 6),
        ("*feedforward*", 4),
        ("feedforward_?*_dense", 4),
        (["query", "value"], 4),
        (re.compile(r"layer_1/.*(query|key)$"), 2),
        (lambda site: site.view.m == 32, 2),
        ("pooled_dense", 1),
        ({"query": None, "*": ksa.LoRA(rank=1)}, 13),
    ],
)
def test_patterns(targets, count):
    backbone, _ = models.bert()
    assert len(paths(backbone, targets=targets)) == count


def test_exclude():
    backbone, _ = models.bert()
    assert len(paths(backbone, exclude="query")) == 10
    assert len(paths(backbone, targets="transformer_layer_0/*", exclude=["query", "*_dense"])) == 3


@pytest.mark.parametrize("argument", ["targets", "exclude"])
@pytest.mark.parametrize("pattern", ["querry", "quer?z", re.compile("nope"), ["query", "valeu"]])
def test_no_match_names_what_is_near(argument, pattern):
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match="matches no layer that") as caught:
        paths(backbone, **{argument: pattern})
    text = str(caught.value)
    assert "transformer_layer_{0..1}/self_attention_layer/query" in text
    assert "EinsumDense (16, 2, 8)" in text
    assert f"Received: {argument}=" in text
    if pattern == "querry":
        assert "Did you mean 'query'" in text


def test_layers_that_cannot_be_adapted():
    odd = keras.layers.EinsumDense("abc,bcd->abd", output_shape=(3, 2), name="odd")
    model = keras.Sequential([keras.Input((3, 4)), keras.layers.Dense(4, name="ok"), odd])
    assert paths(model) == ["ok"]
    with pytest.raises(ValueError, match="`odd` cannot be adapted"):
        paths(model, targets="odd")
    constrained = keras.layers.Dense(3, kernel_constraint="non_neg", name="constrained")
    constrained.build((None, 4))
    with pytest.raises(ValueError, match="has a constraint"):
        paths(constrained, targets="constrained")


def test_subclassed_models_and_containers():
    @keras.saving.register_keras_serializable("tests")
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.towers = {"left": keras.layers.Dense(3), "right": [keras.layers.Dense(3)]}
            self.out = keras.layers.Dense(2, name="out")

        def call(self, x):
            return self.out(self.towers["left"](x) + self.towers["right"][0](x))

    model = Net()
    with pytest.raises(ValueError, match="not built"):
        paths(model)
    model(keras.ops.ones((2, 4)))
    assert len(paths(model, targets="*")) == 3


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


def deep(count=12):
    @keras.saving.register_keras_serializable("tests")
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention_dense, self.dense = keras.layers.Dense(4), keras.layers.Dense(4)

        def call(self, x):
            return self.dense(self.attention_dense(x))

    @keras.saving.register_keras_serializable("tests")
    class Deep(keras.Model):
        def __init__(self):
            super().__init__()
            for i in range(count):
                setattr(self, f"block_{i}", Block())
                getattr(self, f"block_{i}").name = f"block_{i}"
            self.head = keras.layers.Dense(2, name="head")

        def call(self, x):
            for i in range(count):
                x = getattr(self, f"block_{i}")(x)
            return self.head(x)

    model = Deep()
    model(keras.ops.ones((2, 4)))
    return model


@pytest.mark.parametrize(
    ("how", "blocks"),
    [
        ({"last": np.int64(2)}, {10, 11}),
        ({"layers": range(1, 3)}, {1, 2}),
        ({"layers": np.array([11, 0])}, {0, 11}),
    ],
)
def test_some_of_the_blocks(how, blocks):
    model = deep()
    found = paths(model, **how)
    assert {int(path.split("/")[0].removeprefix("block_")) for path in found} == blocks
    assert len(found) == 2 * len(blocks)
    assert len(paths(model, targets=["head", "*dense*"], **how)) == 2 * len(blocks) + 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"last": 0}, "2 at most. Received: layers=None, last=0"),
        ({"last": 3}, "2 at most"),
        ({"last": "one"}, "2 at most"),
        ({"last": 1, "layers": [0]}, "`layers` or `last`, not both"),
        ({"layers": [2]}, "numbers of the 2 repeated blocks"),
        ({"layers": [-1]}, "numbers of the 2 repeated blocks"),
        ({"layers": []}, "numbers of the 2 repeated blocks"),
        ({"layers": 1}, "numbers of the 2 repeated blocks"),
        ({"layers": 3.5}, "numbers of the 2 repeated blocks"),
        ({"layers": [True]}, "numbers of the 2 repeated blocks"),
        ({"last": True}, "2 at most"),
        ({"targets": "pooled_dense", "exclude": "pooled_dense", "last": 1}, "No layer is left"),
    ],
)
def test_blocks_that_are_not_there(how, message):
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match=message):
        ksa.enable(backbone, ksa.SVF(), **how)
    assert not ksa.status(backbone).adapters


def test_a_path_that_two_layers_have_means_both_and_a_key_one():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.one = keras.layers.Dense(4, name="twin")
            self.other = keras.layers.Dense(4, name="twin")

        def call(self, x):
            return self.other(self.one(x))

    model = Twins()
    model(keras.ops.ones((1, 4)))
    one, other = ksa.targets(model, "twin").sites
    assert one.path == other.path == "twin"
    assert [s.key for s in ksa.targets(model, other.key).sites] == [other.key]
    kinds = {"twin": ksa.SVF(), other.key: ksa.LoRA(rank=1)}
    assert {str(s.method) for s in ksa.plan(model, targets=kinds).sites} == {"SVF()"}
    kinds = {other.key: ksa.LoRA(rank=1), "twin": ksa.SVF()}
    assert [str(s.method) for s in ksa.plan(model, targets=kinds).sites] == [
        "SVF()",
        "LoRA(rank=1)",
    ]


def test_a_method_for_each_part():
    backbone, _ = models.bert()
    rules = {"attention": ksa.SVF(), "mlp": ksa.SVFT("banded", d=1), "*query": ksa.LoRA()}
    found = {str(site.method): 0 for site in ksa.plan(backbone, targets=rules).sites}
    for site in ksa.plan(backbone, targets=rules).sites:
        found[str(site.method)] += 1
    assert found == {"SVF()": 8, "SVFT(pattern='banded', d=1)": 4}
    backbone.enable_adapter(None, targets=rules, last=1)
    kernels = [(row[1], int(row[3])) for row in ksa.status(backbone).adapters]
    assert sum(count for method, count in kernels if method == "SVF()") == 4
    assert sum(count for _, count in kernels) == 6


def test_what_is_meant_is_shown():
    backbone, _ = models.bert()
    shown = ksa.targets(backbone, "attention", exclude="key", last=1)
    assert [site.path for site in shown.sites] == paths(
        backbone, targets="attention", exclude="key", last=1
    )
    assert shown.values == 3 * 256
    text = str(shown)
    assert re.search(r"\*  transformer_layer_1/self_attention_layer/query +EinsumDense", text)
    assert "transformer_layer_{0..1}/self_attention_layer/key" in text
    assert "* 3 of 15 kernels selected, 768 values" in text
    assert "- `token_embedding` cannot be adapted: its table also makes the logits" in text
    assert not ksa.status(backbone).adapters


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
