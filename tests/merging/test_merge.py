"""Merged equals unmerged, and costs nothing."""

import gc
import importlib
import weakref

import keras
import models
import numpy as np
import pytest
from cases import adapted, batch, build_layer, method_kernel_pairs, numpy, shake
from snapshots import bits

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.models.sites.search import adapted_sites

merge_record = importlib.import_module("keras_svd_adapters.merging.merge_record")


@pytest.mark.parametrize(("case", "build", "shape"), method_kernel_pairs())
def test_layer(case, build, shape):
    base = build_layer(build)
    plain = type(base)
    layer = adapted(case, base)
    shake(layer)
    x = batch(shape)
    expected = numpy(layer(x))
    ksa.merge(layer)
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=1e-5 * np.abs(expected).max())
    assert type(base) is plain
    assert len(layer.weights) == 2 - (base.bias is None)


@pytest.mark.parametrize("family", models.FAMILIES)
def test_backbone(family):
    backbone, x = models.FAMILIES[family]()
    count, trainable = len(backbone.weights), len(backbone.trainable_weights)
    ksa.enable(backbone, ksa.SVFT(pattern="banded", d=2))
    shake(backbone)
    expected = models.output(backbone(x))
    ksa.merge(backbone)
    found = models.output(backbone(x))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert (len(backbone.weights), len(backbone.trainable_weights)) == (count, trainable)
    assert not any(isinstance(layer, AdaptedLayer) for layer in backbone._flatten_layers())
    with pytest.raises(ValueError, match="has no adapter"):
        ksa.merge(backbone)


def test_values_that_are_not_finite_are_refused():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF())
    backbone.trainable_weights[3].assign(np.full(16, np.nan))
    kernels = [w.numpy().copy() for w in backbone.weights]
    with pytest.raises(ValueError, match=r"NaN or infinite values.*Received: `z` of"):
        ksa.merge(backbone)
    for weight, kernel in zip(backbone.weights, kernels, strict=True):
        np.testing.assert_array_equal(weight.numpy(), kernel)


def test_an_inactive_adapter_is_not_merged():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.LoRA(rank=2), name="second")
    ksa.set_adapter(backbone, None)
    with pytest.raises(ValueError, match="not active"):
        ksa.merge(backbone)
    ksa.set_adapter(backbone, "second")
    ksa.merge(backbone)


@pytest.mark.parametrize("with_probe", [False, True])
def test_more_error_than_is_put_up_with(with_probe):
    backbone, x = models.bert("bfloat16")
    ksa.enable(backbone, ksa.LoRA(rank=2), train="*norm*")
    shake(backbone)
    probe = x if with_probe else None
    before, y = bits(backbone), models.output(backbone(x))
    with pytest.raises(ValueError, match=r"more than `tolerance`(.|\n)*Received: tolerance=1e-06"):
        ksa.merge(backbone, tolerance=1e-6, probe=probe)
    assert bits(backbone) == before
    np.testing.assert_array_equal(models.output(backbone(x)), y)
    assert ksa.merge(backbone, tolerance=0.1, probe=probe).relative < 0.1


@pytest.mark.parametrize("around", [False, True])
def test_a_kernel_of_two_layers(around):
    inputs = keras.Input((6,))
    first, second = keras.layers.Dense(6, name="first"), keras.layers.Dense(6, name="second")
    inner = keras.Model(inputs, first(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(second(inner(inputs))))
    second._tracker.unlock()
    second._kernel = first._kernel
    ksa.enable(model, ksa.LoRA(rank=2), targets="first")
    with pytest.raises(ValueError, match="also belongs to 'second'"):
        ksa.merge(inner if around else model)
    assert adapted_sites(model)


@pytest.mark.parametrize("how", ["no output", "no number", "interrupted"])
def test_what_goes_wrong_leaves_the_model_adapted(how, monkeypatch):
    model, _, x = models.classifier()
    ksa.enable(model, ksa.LoRA(rank=2), train="head")
    shake(model)
    before, trained = bits(model), [w.path for w in model.trainable_weights]
    if how == "no output":
        empty = {key: value[:0] for key, value in x.items()}
        with pytest.raises(ValueError, match="no output on `probe`.*Received: "):
            ksa.merge(model, probe=empty)
    elif how == "no number":
        with pytest.raises(ValueError, match="`tolerance` must be a number.*Received: "):
            ksa.merge(model, tolerance="1e-3", probe=x)
    else:
        detach, calls = merge_record.detach, []

        def interrupted(layer, name):
            calls.append(layer)
            if len(calls) == 5:
                raise KeyboardInterrupt
            detach(layer, name)

        monkeypatch.setattr(merge_record, "detach", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ksa.merge(model)
    assert bits(model) == before
    assert [w.path for w in model.trainable_weights] == trained
    assert len(adapted_sites(model)) == 12


def test_a_refused_merge_keeps_the_optimizer():
    model, _, x = models.classifier()
    ksa.enable(model, ksa.LoRA(rank=2))
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(x, np.ones((2, 3)), verbose=0)
    shake(model)
    function, slots = model.train_function, [v.numpy() for v in model.optimizer.variables]
    with pytest.raises(ValueError, match="more than `tolerance`"):
        ksa.merge(model, tolerance=0.0, probe=x)
    assert model.train_function is function
    for ours, before in zip(model.optimizer.variables, slots, strict=True):
        np.testing.assert_array_equal(ours.numpy(), before)


def test_a_kernel_too_large_for_its_dtype():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, dtype="float16")])
    ksa.enable(model, ksa.LoRA(rank=2), targets="dense*")
    for weight in model.trainable_weights:
        weight.assign(np.full(weight.shape, 300.0))
    with pytest.raises(ValueError, match="does not fit into float16.*Received: "):
        ksa.merge(model)
    assert adapted_sites(model)


def test_a_merged_model_can_be_collected():
    layer = keras.layers.Dense(4)
    layer.build((None, 6))
    ksa.enable(layer, ksa.SVF())
    ksa.merge(layer)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
