"""Names of adapters: which words are one, which are taken, and which adapters go together."""

import models
import numpy as np
import pytest
from snapshots import snapshot

import keras_svd_adapters as ksa

backend_free = pytest.mark.backend_free("messages are made of names and shapes")


@backend_free
def test_a_taken_name():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF(), targets="query")
    before = snapshot(backbone)
    with pytest.raises(ValueError, match="has an adapter of this name.*Received: name='default'"):
        ksa.enable(backbone, ksa.LoRA(rank=2))
    assert snapshot(backbone) == before


@backend_free
@pytest.mark.parametrize("name", ["names", "kernel", "adapters", "default"])
def test_any_word_is_a_name(name):
    backbone, x = models.bert()
    y = models.output(backbone(x))
    ksa.enable(backbone, ksa.SVF(), name=name)
    np.testing.assert_array_equal(models.output(backbone(x)), y)
    ksa.delete_adapter(backbone, name)


@backend_free
@pytest.mark.parametrize("name", [5, [None], ["default", 1], {1: 1.0}])
def test_what_is_no_name(name):
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF())
    for verb in (ksa.set_adapter, ksa.delete_adapter):
        with pytest.raises(ValueError, match="name.*Received: name="):
            verb(backbone, name)
    with pytest.raises(ValueError, match="Received: name=None"):
        ksa.delete_adapter(backbone, None)


def test_two_on_one_layer():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF())
    ksa.enable(backbone, ksa.LoRA(rank=2), name="second")
    before = snapshot(backbone)
    with pytest.raises(ValueError, match="One adapter of a layer.*Received: name="):
        ksa.set_adapter(backbone, ["default", "second"])
    assert snapshot(backbone) == before


@backend_free
def test_what_another_adapter_trained_is_not_in_the_file(tmp_path):
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF(), train="*norm*")
    ksa.enable(backbone, ksa.SVF(), name="second")
    with pytest.warns(UserWarning, match="trained with 'default' also change the model's outputs"):
        ksa.save_adapter(backbone, tmp_path / "second.keras", name="second")
