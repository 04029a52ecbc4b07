"""An `enable` that fails or is stopped half way leaves the model as it was."""

import importlib

import models
import numpy as np
import pytest
from snapshots import snapshot

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.own_values import trained_with
from keras_svd_adapters.models.state.trained_weights import base_weights


def test_a_failure_after_attaching(monkeypatch):
    refresh = importlib.import_module("keras_svd_adapters.models.refresh")

    def broken(model):
        raise RuntimeError("broken")

    backbone, _ = models.bert()
    before = snapshot(backbone)
    with monkeypatch.context() as patched:
        patched.setattr(refresh, "mark_adapted", broken)
        with pytest.raises(RuntimeError, match="broken"):
            ksa.enable(backbone, ksa.SVF(), train="*norm*")
        assert not [w for _, _, w in base_weights(backbone) if trained_with(w)]
    weights, layers, trainable = snapshot(backbone)
    assert (weights, trainable) == (before[0], before[2])
    assert [layer[:2] for layer in layers] == [layer[:2] for layer in before[1]]


def test_interrupted_half_way(monkeypatch):
    service = importlib.import_module("keras_svd_adapters.kernels.svd.service")
    right, calls = service.decompose, []

    def interrupted(K, part=None):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return right(K)

    monkeypatch.setattr(service, "decompose", interrupted)
    backbone, x = models.bert()
    before, y = snapshot(backbone), models.output(backbone(x))
    with pytest.raises(KeyboardInterrupt):
        ksa.enable(backbone, ksa.SVF(), train="*norm*")
    assert snapshot(backbone) == before
    monkeypatch.setattr(service, "decompose", right)
    ksa.enable(backbone, ksa.SVF())
    np.testing.assert_array_equal(models.output(backbone(x)), y)
