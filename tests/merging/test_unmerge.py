"""`unmerge` restores every bit, or raises an error with the reason."""

import models
import numpy as np
import pytest
from cases import numpy, shake
from snapshots import bits

import keras_svd_adapters as ksa

SVFT = ksa.SVFT(pattern="banded", d=2)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        (ksa.DoRA(rank=2), "float32"),
        (ksa.VeRA(rank=4), "mixed_bfloat16"),
        (SVFT, "bfloat16"),
        (ksa.LoRA(rank=2), "float64"),
    ],
)
def test_unmerging_restores_every_bit(method, dtype):
    model, _, x = models.classifier(dtype)
    ksa.enable(model, method, train="head")
    shake(model)
    before, trained = bits(model), [w.path for w in model.trainable_weights]
    y = numpy(model(x))
    kernels = [w.path for w in model.weights if w.name == "kernel"]
    ksa.merge(model)
    assert sum(bits(model)[path] != before[path] for path in kernels) == 12
    ksa.unmerge(model)
    assert bits(model) == before
    assert [w.path for w in model.trainable_weights] == trained
    np.testing.assert_array_equal(numpy(model(x)), y)
    assert ksa.merge(model, probe=x).probe[1] < 0.05
    ksa.unmerge(model)
    assert bits(model) == before


def test_nothing_to_unmerge():
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match=r"no merge to undo.*Received: "):
        ksa.unmerge(backbone)
    ksa.enable(backbone, ksa.LoRA(rank=2))
    with pytest.raises(ValueError, match="no merge to undo"):
        ksa.unmerge(backbone)
    ksa.merge(backbone)
    ksa.enable(backbone, ksa.LoRA(rank=2))
    with pytest.raises(ValueError, match="adapters after its `merge`"):
        ksa.unmerge(backbone)
    ksa.merge(backbone, keep_base=False)
    with pytest.raises(ValueError, match="keep_base=False"):
        ksa.unmerge(backbone)


def test_kernels_that_changed_since():
    backbone, _ = models.bert()
    backbone.enable_svf()
    shake(backbone)
    backbone.merge_adapter()
    before = bits(backbone)
    kernel = backbone.get_layer("transformer_layer_1")._feedforward_output_dense.kernel
    old = kernel.numpy()
    kernel.assign(old + 1)
    with pytest.raises(ValueError, match="changed after the merge"):
        ksa.unmerge(backbone)
    kernel.assign(old)
    assert bits(backbone) == before
    backbone.unmerge_adapter()


def test_kernels_under_keras_lora_since():
    backbone, _ = models.bert()
    backbone.enable_svf()
    ksa.merge(backbone)
    backbone.enable_lora(2)
    with pytest.raises(ValueError, match="changed after the merge"):
        ksa.unmerge(backbone)
