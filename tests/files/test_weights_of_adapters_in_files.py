"""The weights of adapters, and which of them train, in models, weights and presets."""

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import numpy, shake
from mixed_batch import adapted, batch, small

import keras_svd_adapters as ksa
from keras_svd_adapters.models.sites.search import adapted_sites

WEIGHTS = {"a": 0.1, "b": -1.5}


def y(model):
    return numpy(model(batch()))


def with_weights(weights=WEIGHTS, train="b"):
    model = adapted(small(), ksa.LoRA(rank=2), ksa.SVF(), targets=["heads", "square"])
    ksa.set_adapter(model, weights, train=train)
    return model


def table(model):
    """The rows of `status`, without the names of methods."""
    return [(row[0], *row[3:]) for row in ksa.status(model).adapters]


@pytest.mark.parametrize("train", ["b", None])
def test_a_whole_model(train, tmp_path):
    model = with_weights(train=train)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(y(again), y(model))
    assert table(again) == table(model)
    assert len(again.trainable_weights) == len(model.trainable_weights)
    assert [w.name for w in again.weights] == [w.name for w in model.weights]
    ksa.set_adapter(again, {"b": 1.0, "a": 0.0}, train=train)  # the same set
    ksa.set_adapter(model, "b")
    np.testing.assert_array_equal(y(again), y(model))


def test_a_model_around_and_the_model_inside(tmp_path):
    """The set of a part is in the configuration of the part, too."""
    inner = keras.Sequential([keras.Input((6, 10)), keras.layers.Dense(10, name="up")], name="in")
    outer = keras.Sequential([keras.Input((6, 10)), inner, keras.layers.Dense(2, name="down")])
    adapted(outer, ksa.LoRA(rank=2), targets=["up", "down"])
    ksa.set_adapter(outer, WEIGHTS)
    outer.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(y(again), y(outer))
    ksa.set_adapter(again, {"a": 0.0, "b": 0.0})
    ksa.set_adapter(outer, None)
    np.testing.assert_array_equal(y(again), y(outer))


def test_weights_alone(tmp_path):
    model = with_weights()
    model.save_weights(tmp_path / "m.weights.h5")
    again = with_weights({"a": 1.0, "b": 1.0})
    again.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(y(again), y(model))
    ksa.set_adapter(again, "a")
    again.load_weights(tmp_path / "m.weights.h5")
    ksa.set_adapter(model, "a")
    model.save_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(y(again), y(model))
    again = with_weights({"a": 1.0, "b": 0.0})
    again.load_weights(tmp_path / "a.weights.h5")  # has no weights of adapters: they stay
    np.testing.assert_array_equal(y(again), y(model))


def test_each_adapter_is_saved_as_itself(tmp_path):
    model = with_weights()
    alone = {}
    for name in "ab":
        ksa.save_adapter(model, tmp_path / f"{name}.keras", name=name)
    for name in "ab":
        ksa.set_adapter(model, name)
        alone[name] = y(model)
    other = small()
    other.set_weights(without_adapters(model).get_weights())
    for name in "ab":
        ksa.load_adapter(other, tmp_path / f"{name}.keras", name=name)
        np.testing.assert_allclose(y(other), alone[name], rtol=0, atol=1e-6)


def without_adapters(model):
    """The model without its adapters."""
    for name in "ab":
        ksa.delete_adapter(model, name)
    return model


@pytest.mark.backend_free("a preset is text and files of adapters")
@pytest.mark.parametrize("train", ["wide", None])
def test_a_preset(train, tmp_path):
    backbone, x = models.bert(num_layers=1)
    ksa.enable(backbone, ksa.LoRA(rank=2), name="wide")
    ksa.enable(backbone, ksa.SVF(), targets="*query*", name="narrow")
    shake(backbone)
    backbone.set_adapter({"wide": 0.3, "narrow": -2.0}, train=train)
    backbone.save_to_preset(tmp_path)
    again = keras_hub.models.Backbone.from_preset(str(tmp_path))
    np.testing.assert_allclose(models.output(again(x)), models.output(backbone(x)), atol=1e-6)
    assert str(ksa.status(again)) == str(ksa.status(backbone))
    assert [w.path for w in again.trainable_weights] == [w.path for w in backbone.trainable_weights]
    assert len({id(s.layer.adapter_weights()) for s in adapted_sites(again)}) == 1
