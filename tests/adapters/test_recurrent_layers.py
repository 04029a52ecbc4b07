"""Kernels of recurrent cells, and of separable and transposed convolutions."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import batch, close, numpy, shake
from experts import model_of_experts

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites

L = keras.layers


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVFT("banded", d=1)], ids=str)
def test_recurrent_cells(kind, method):
    build = getattr(keras.layers, kind)
    x = batch((2, 4, 6))
    keras.utils.set_random_seed(2)
    layer, plain = (keras.Sequential([build(5, seed=1)]) for _ in range(2))
    before = numpy(layer(x))
    plain(x)
    plain.set_weights(layer.get_weights())
    assert [s.name for s in find_sites(layer)] == ["kernel", "recurrent_kernel"]
    status = ksa.enable(layer, method, targets=["kernel", "recurrent_kernel"])
    assert len(status.trainable_weights) == len(layer.trainable_weights) > 0
    np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer)
    for name in ("kernel", "recurrent_kernel"):
        getattr(plain.layers[0].cell, name).assign(getattr(layer.layers[0].cell, name))
    close(numpy(layer(x)), numpy(plain(x)))
    assert all(np.any(g) for g in gradients(layer, x, before))
    y = numpy(layer(x))
    ksa.merge(layer)
    close(numpy(layer(x)), y)


@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVF()], ids=str)
def test_effective_kernels_are_computed_once_a_call(method, monkeypatch):
    model = keras.Sequential([keras.Input((5, 6)), L.Bidirectional(L.GRU(4), name="both")])
    plain = type(model.layers[0].forward_layer)
    ksa.enable(model, method, targets=["kernel", "recurrent_kernel"])
    shake(model)
    counted = []
    delta = Adapter.delta
    monkeypatch.setattr(Adapter, "delta", lambda self, K: counted.append(1) or delta(self, K))
    model(batch((2, 5, 6)))
    assert len(counted) == 4, "two kernels of each direction, whatever the number of time steps"
    ksa.delete_adapter(model, "default")
    assert type(model.layers[0].forward_layer) is plain


CONVOLUTIONS = {
    "separable_1d": (L.SeparableConv1D, (7, 6)),
    "separable_2d": (L.SeparableConv2D, (5, 7, 6)),
    "transposed_1d": (L.Conv1DTranspose, (7, 6)),
    "transposed_2d": (L.Conv2DTranspose, (5, 7, 6)),
    "transposed_3d": (L.Conv3DTranspose, (2, 3, 4, 6)),
}


@pytest.mark.parametrize(("cls", "shape"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVF()], ids=str)
def test_other_convolutions(cls, shape, method):
    layer, plain = (cls(4, 3, strides=2, padding="same") for _ in range(2))
    x = batch((2, *shape))
    before = numpy(layer(x))
    plain(x)
    plain.set_weights(layer.get_weights())
    ksa.enable(layer, method)
    np.testing.assert_array_equal(numpy(layer(x)), before)
    (site,) = adapted_sites(layer)
    assert not site.is_default_target
    assert (site.view.m, site.view.n) == (
        (6, 4) if "Sep" in cls.__name__ else (6, 4 * 3 ** (len(shape) - 1))
    )
    shake(layer)
    name = site.layer.attribute
    getattr(plain, name).assign(getattr(layer, name))
    close(numpy(layer(x)), numpy(plain(x)))
    assert np.abs(numpy(layer(x)) - before).max() > 1e-2
    ksa.merge(layer)
    assert type(layer) is cls
    close(numpy(layer(x)), numpy(plain(x)))


def test_a_recurrent_layer_is_named_by_its_name():
    model = keras.Sequential([keras.Input((7, 6)), L.Bidirectional(L.LSTM(4), name="both")])
    for name, count in {
        "both": 4,
        "forward_lstm": 2,
        "lstm_cell": 4,
        "recurrent_kernel": 2,
    }.items():
        assert len(ksa.targets(model, name).sites) == count
    assert len(ksa.targets(model, "both", exclude="forward_lstm").sites) == 2
    layer = model_of_experts()
    assert [site.name for site in ksa.targets(layer, "experts").sites] == ["up_proj", "down_proj"]


def test_they_are_no_blocks():
    """Two recurrent or separable layers do not make a model of repeated blocks."""
    model = keras.Sequential(
        [keras.Input((7, 6))]
        + [L.SeparableConv1D(6, 3, name=f"separable_{i}") for i in range(2)]
        + [L.Bidirectional(L.LSTM(4, return_sequences=True), name=f"both_{i}") for i in range(2)]
        + [L.GRU(4, return_sequences=True, name="gru_0"), L.GRU(4, name="gru_1")]
        + [L.Dense(5, name="inner"), L.Dense(2, name="head")]
    )
    meant = {site.path.split("/")[0] for site in ksa.targets(model).sites}
    assert meant == {"both_0", "both_1", "gru_0", "gru_1", "inner"}
    with pytest.raises(ValueError, match="no repeated blocks"):
        ksa.targets(model, last=1)


def test_the_bias_of_a_recurrent_cell():
    layer = L.LSTM(4)
    layer.build((None, 6, 8))
    assert ksa.enable(layer, ksa.methods.BitFit(), targets="bias").trainable_parameters == 16
    before = numpy(layer(batch((2, 6, 8))))
    shake(layer)
    assert np.abs(numpy(layer(batch((2, 6, 8)))) - before).max() > 1e-3
