"""Merged equals unmerged, and costs nothing."""

import models
import numpy as np
import pytest
from cases import adapted, batch, build_layer, method_kernel_pairs, numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters.host import AdaptedLayer


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
    with pytest.raises(ValueError, match="no such adapter"):
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


def test_other_adapters_are_in_the_way():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF())
    ksa.enable(backbone, ksa.LoRA(rank=2), name="second")
    with pytest.raises(ValueError, match="Take them off"):
        ksa.merge(backbone)
    ksa.delete_adapter(backbone, "default")
    ksa.set_adapter(backbone, None)
    with pytest.raises(ValueError, match="not active"):
        ksa.merge(backbone)
    ksa.set_adapter(backbone, "second")
    ksa.merge(backbone)
