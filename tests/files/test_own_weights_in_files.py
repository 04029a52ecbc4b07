"""Weights that several adapters train: the values of each are in every file and copy."""

import copy
import pickle

import keras
import numpy as np
import pytest
from cases import shake
from own_weights import X, adapted, add, outputs, plain, same
from tasks import task

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.own_values import trained_with
from keras_svd_adapters.models.state.trained_weights import base_weights


def saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "whole.keras")
    return keras.models.load_model(tmp_path / "whole.keras")


def weights_alone(model, tmp_path):
    model.save_weights(tmp_path / "all.weights.h5")
    other = plain()
    for name in "abc":
        add(other, name, **({"train": "head"} if name != "c" else {}))
    ksa.set_adapter(other, "a")
    other.load_weights(tmp_path / "all.weights.h5")
    return other


def adapter_files(model, tmp_path):
    other = plain()
    for name in "ba":
        ksa.save_adapter(model, tmp_path / f"{name}.keras", name)
    for name in "ba":
        ksa.load_adapter(other, tmp_path / f"{name}.keras", name, verbose=0)
    return other


COPIES = {
    "the whole model": saved_and_loaded,
    "its weights": weights_alone,
    "files of adapters": adapter_files,
    "a deep copy": lambda model, _: copy.deepcopy(model),
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_both_heads_are_saved(copied, tmp_path):
    model = adapted({"train": "head"})
    expected = outputs(model)
    ksa.set_adapter(model, "b")
    other = copied(model, tmp_path)
    same(outputs(other, ("b", "a")), expected)
    expected = ksa.predict(model, X, ["a", "b"] * 3)
    np.testing.assert_allclose(ksa.predict(other, X, ["a", "b"] * 3), expected, atol=1e-5)


def test_a_file_goes_into_an_adapter_that_is_there(tmp_path):
    model = adapted({"train": "head"})
    expected = outputs(model)
    ksa.save_adapter(model, tmp_path / "a.keras", "a")
    ksa.set_adapter(model, "a")
    shake(model, seed=7)
    ksa.set_adapter(model, "b")
    ksa.load_adapter(model, tmp_path / "a.keras", "a", verbose=0)
    same(outputs(model), expected)


def test_a_file_of_fewer_adapters_is_told(tmp_path):
    model = plain()
    add(model, "a", train="head")
    model.save_weights(tmp_path / "before.weights.h5")
    add(model, "b", train="head")
    with pytest.warns(UserWarning, match="other adapters train the same weight"):
        model.load_weights(tmp_path / "before.weights.h5")


@pytest.mark.parametrize("held", ["a", "b"])
def test_a_preset_keeps_what_weights_hold(held, tmp_path):
    model, x = task()
    for seed, (name, targets) in enumerate((("a", "*query*"), ("b", "*value*"))):
        ksa.set_adapter(model, None) if seed else None
        how = {"targets": targets, "name": name, "train": "logits", "verbose": 0}
        ksa.enable(model, ksa.LoRA(rank=2), **how)
        shake(model, seed=seed)
    ksa.set_adapter(model, held)
    ksa.set_adapter(model, None)
    model.save_to_preset(tmp_path)
    again = type(model).from_preset(str(tmp_path), preprocessor=None)
    np.testing.assert_allclose(again.predict(x), model.predict(x), atol=1e-5)
    for name in "ab":
        for each in (model, again):
            ksa.set_adapter(each, name)
        np.testing.assert_allclose(again.predict(x), model.predict(x), atol=1e-5)


def test_weights_of_the_backbone_stay_with_the_active_adapter(tmp_path):
    model, x = task()
    for seed, name in enumerate("ab"):
        how = {"name": name, "bias": "adapted", "verbose": 0}
        ksa.enable(model.backbone, ksa.LoRA(rank=2), **how)
        shake(model.backbone, seed=seed)
    model.save_to_preset(tmp_path)
    again = type(model).from_preset(str(tmp_path), preprocessor=None)
    for each in (model, again):
        shake(each.backbone, seed=7)
        for name in "ab":
            ksa.set_adapter(each, name)
    np.testing.assert_allclose(again.predict(x), model.predict(x), atol=1e-5)
    assert "b" in {trained_with(w) for _, _, w in base_weights(again)}
