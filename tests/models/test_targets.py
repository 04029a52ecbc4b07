"""Patterns find what they name, and say so when they find nothing."""

import re

import keras
import models
import pytest
from target_paths import paths

import keras_svd_adapters as ksa

pytestmark = pytest.mark.backend_free("patterns are matched with names")


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
