"""The angles between what adapters change."""

import keras
import models
import numpy as np
import pytest
from cases import METHODS, numpy, shake
from experts import experts
from two_adapters import adapted, deltas

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites

pytestmark = pytest.mark.backend_free("computed by NumPy of changes that each backend tests")

BLOCKS = {name: case.method for name, case in METHODS.items() if not case.square_only}


def cosine(a, b):
    return np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("method", BLOCKS.values(), ids=BLOCKS)
def test_is_the_cosine_of_the_changes(method):
    model = adapted(method, ksa.LoRA(rank=2))
    a, b = deltas(model, "a"), deltas(model, "b")
    (pair,) = ksa.similarity(model).pairs
    assert [k.path for k in pair.kernels] == [site.path for site in adapted_sites(model)]
    for kernel, one, other in zip(pair.kernels, a, b, strict=True):
        np.testing.assert_allclose(kernel.cosine, cosine(one, other), atol=1e-6)
    whole = cosine(*(np.concatenate([x.ravel() for x in each]) for each in (a, b)))
    np.testing.assert_allclose(pair.cosine, whole, atol=1e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_what_changes_nothing_has_no_direction(name):
    model, _ = models.bert()
    ksa.enable(model, BLOCKS[name], name="a", cache=False)
    ksa.enable(model, ksa.LoRA(rank=2), name="b")
    shake(model)
    report = ksa.similarity(model)
    assert report.cosine("a", "b") is None
    assert {kernel.cosine for kernel in report.pairs[0].kernels} == {None}
    assert "nan" not in str(report)
    assert "has no direction" in str(report)


def test_the_same_the_opposite_and_a_scale():
    model = adapted(ksa.SVF())
    ksa.combine(model, {"a": -3}, into="less")
    ksa.combine(model, {"a": 1e-3}, into="bit")
    report = ksa.similarity(model)
    np.testing.assert_allclose(report.cosine("less", "a"), -1, atol=1e-5)
    np.testing.assert_allclose(report.cosine("a", "bit"), 1, atol=1e-5)
    assert [pair.names for pair in report.pairs][:3] == [("a", "b"), ("a", "less"), ("a", "bit")]
    assert ksa.similarity(model, ["bit", "a"]).pairs[0].names == ("bit", "a")
    assert "no direction" not in str(report)


def test_kernels_that_one_of_them_lacks():
    model, _ = models.bert()
    for name, targets in {"a": "query", "b": ["query", "key"], "c": "value"}.items():
        ksa.enable(model, ksa.LoRA(rank=2), name=name, targets=targets)
        shake(model)
    report = ksa.similarity(model)
    assert [len(pair.kernels) for pair in report.pairs] == [2, 0, 0]
    assert report.cosine("a", "c") is None
    assert "they adapt none in common" in str(report)


def test_each_expert():
    model = adapted(ksa.SVF(), ksa.LoRA(rank=2), build=experts)
    (pair,) = ksa.similarity(model).pairs
    assert [kernel.path for kernel in pair.kernels][:2] == ["up_proj[0]", "up_proj[1]"]
    a, b = deltas(model, "a")[0], deltas(model, "b")[0]
    np.testing.assert_allclose(pair.kernels[1].cosine, cosine(a[1], b[1]), atol=1e-6)


def test_kernels_alike_are_one_row():
    text = str(ksa.similarity(adapted(ksa.SVF())))
    assert "transformer_layer_{0..1}/self_attention_layer/query" in text
    assert "all that both adapt" in text


def test_the_model_is_left_as_it_was():
    model = adapted(ksa.SVF())
    before = {w.path: numpy(w) for w in model.weights}
    ksa.similarity(model)
    assert {site.layer.active_adapter for site in adapted_sites(model)} == {"b"}
    assert before.keys() == {w.path for w in model.weights}


BAD = {
    "unknown": (["a", "c"], "no such adapter"),
    "one": (["a"], "two different adapters"),
    "twice": (["a", "a"], "two different adapters"),
    "a_word": ("ab", "two different adapters"),
    "no_words": ([1, 2], "two different adapters"),
}


@pytest.mark.parametrize(("names", "message"), BAD.values(), ids=BAD)
def test_bad_requests(names, message):
    with pytest.raises(ValueError, match=message) as error:
        ksa.similarity(adapted(ksa.SVF()), names)
    assert "Received: " in str(error.value)


def test_too_few_adapters():
    model, _ = models.bert()
    with pytest.raises(ValueError, match="no adapter: `enable` one first"):
        ksa.similarity(model)
    ksa.enable(model, ksa.LoRA(rank=2))
    with pytest.raises(ValueError, match=r"needs two adapters.*Received: adapters"):
        ksa.similarity(model)
    with pytest.raises(ValueError, match="were not compared"):
        ksa.similarity(adapted(ksa.LoRA(rank=2))).cosine("a", "a")


def test_values_that_are_not_finite():
    model = adapted(ksa.LoRA(rank=2))
    variable = adapters_of(adapted_sites(model)[0].layer)["a"].lora_b
    variable.assign(keras.ops.full(variable.shape, float("nan")))
    with pytest.raises(ValueError, match="NaN or infinite"):
        ksa.similarity(model)
