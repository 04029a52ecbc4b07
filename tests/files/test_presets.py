"""A KerasHub preset of an adapted model: the base model's own, and its adapters beside it."""

import json
import warnings

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import shake
from fresh_process import fresh_process
from tasks import adapted_task, task

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.files.archive import AdapterFileError
from keras_svd_adapters.files.presets.saving import FOLDER, INDEX
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.adapted_model import AdaptedModel


def two_adapters():
    backbone, x = models.bert()
    ksa.enable(backbone, ksa.LoRA(rank=2), name="wide")
    ksa.enable(backbone, ksa.SVF(), targets="*query*", name="narrow")
    shake(backbone)
    return backbone, x


def test_in_a_fresh_process(tmp_path):
    made = {"backbone": two_adapters(), "task": adapted_task()}
    shake(made["task"][0])
    for name, (model, _) in made.items():
        model.save_to_preset(tmp_path / name)
    assert fresh_process("from_preset.py", tmp_path).wait() == 0
    for name, (model, x) in made.items():
        y = models.output(model(x))
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), y, atol=1e-6)
        assert (tmp_path / f"{name}.txt").read_text() == str(ksa.status(model))


def test_each_adapter_has_its_head(tmp_path):
    model, x = adapted_task()
    shake(model, seed=1)
    ksa.enable(model, ksa.LoRA(rank=2), name="wide", train=["logits", "*/bias"])
    ksa.enable(model, ksa.LoRA(rank=1), name="third", bias="adapted", train="logits")
    ksa.delete_adapter(model, "third")
    ksa.set_adapter(model, "wide")
    shake(model, seed=2)
    before, mixed = model.predict(x), ksa.predict(model, x, ["wide", "pirate"])
    model.save_to_preset(tmp_path)
    np.testing.assert_array_equal(model.predict(x), before)
    np.testing.assert_array_equal(ksa.predict(model, x, ["wide", "pirate"]), mixed)
    again = keras_hub.models.BertTextClassifier.from_preset(str(tmp_path), preprocessor=None)
    np.testing.assert_allclose(again.predict(x), model.predict(x), atol=1e-5)
    for each in (model, again):
        ksa.set_adapter(each, "pirate")
    np.testing.assert_allclose(again.predict(x), model.predict(x), atol=1e-5)
    found = ksa.predict(again, x, ["wide", "pirate"])
    np.testing.assert_allclose(found, ksa.predict(model, x, ["wide", "pirate"]), atol=1e-5)


def test_saving_touches_nothing(tmp_path):
    twins = []
    for save in (False, True):
        keras.utils.set_random_seed(8)
        model, x = adapted_task()
        model.compile(
            keras.optimizers.Adam(1e-2),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        y = np.array([0, 2])
        model.fit(x, y, verbose=0)
        if save:
            function, classes = model.train_function, [type(x) for x in model.layers]
            model.save_to_preset(tmp_path)
            assert [type(x) for x in model.layers] == classes
            assert isinstance(model, AdaptedModel)
            assert model.train_function is function
        model.fit(x, y, verbose=0)
        twins.append(model)
    for mine, theirs in zip(*[m.weights for m in twins], strict=True):
        assert mine.trainable == theirs.trainable, mine.path
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy(), err_msg=mine.path)


def test_what_stops_the_saving_leaves_the_model_whole(tmp_path, monkeypatch):
    backbone, x = two_adapters()
    y = models.output(backbone(x))
    monkeypatch.setattr(keras_hub.models.BertBackbone, "count_params", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backbone.save_to_preset(tmp_path)
    assert isinstance(backbone, AdaptedModel)
    np.testing.assert_array_equal(models.output(backbone(x)), y)


def test_the_preset_is_the_plain_models_own(tmp_path):
    plain, x = models.bert()
    plain.save_to_preset(tmp_path / "plain")
    backbone, _ = two_adapters()
    backbone.save_to_preset(tmp_path / "adapted")
    names = {path.name for path in (tmp_path / "adapted").iterdir()}
    assert names == {path.name for path in (tmp_path / "plain").iterdir()} | {INDEX, FOLDER}
    ours, theirs = [
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("adapted", "plain")
    ]
    for config in (ours, theirs):
        config["config"].pop("name")
    assert ours == theirs
    (tmp_path / "adapted" / INDEX).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = keras_hub.models.Backbone.from_preset(str(tmp_path / "adapted"))
    assert not isinstance(again, AdaptedModel)
    np.testing.assert_array_equal(models.output(again(x)), models.output(plain(x)))
    assert type(type(backbone).from_preset(str(tmp_path / "adapted"))) is type(plain)


def test_a_merged_model_takes_the_place_of_an_adapted_one(tmp_path):
    backbone, x = models.bert()
    ksa.enable(backbone, ksa.LoRA(rank=2))
    shake(backbone)
    backbone.save_to_preset(tmp_path)
    ksa.merge(backbone)
    backbone.save_to_preset(tmp_path)
    assert not (tmp_path / INDEX).exists()
    assert not list((tmp_path / FOLDER).iterdir())
    again = keras_hub.models.Backbone.from_preset(str(tmp_path))
    np.testing.assert_array_equal(models.output(again(x)), models.output(backbone(x)))


def test_another_head_and_no_head(tmp_path):
    model, _ = adapted_task()
    model.save_to_preset(tmp_path)
    with pytest.warns(UserWarning, match="It trained `logits.*and here its shape is"):
        other = keras_hub.models.TextClassifier.from_preset(
            str(tmp_path), num_classes=5, preprocessor=None
        )
    assert len(adapted_sites(other)) == len(adapted_sites(model))
    with pytest.warns(UserWarning, match="'pirate' belongs to a BertTextClassifier.*Received: "):
        backbone = keras_hub.models.Backbone.from_preset(str(tmp_path))
    assert not any(isinstance(x, AdaptedLayer) for x in backbone._flatten_layers())


def trainable(model):
    return [w.trainable for w in model.weights]


@pytest.mark.parametrize("whole", [False, True])
def test_the_head_trains_as_it_did(whole, tmp_path):
    model, _ = task()
    ksa.enable(model if whole else model.backbone, ksa.LoRA(rank=2))
    model.save_to_preset(tmp_path)
    again = keras_hub.models.TextClassifier.from_preset(str(tmp_path), preprocessor=None)
    assert trainable(again) == trainable(model)
    assert any(w.trainable for w in again.get_layer("logits").weights) == (not whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = keras_hub.models.TextClassifier.from_preset(
            str(tmp_path), num_classes=5, preprocessor=None
        )
    assert all(w.trainable for w in other.get_layer("logits").weights)
    assert len(adapted_sites(other)) == 12


def test_saving_thaws_nothing(tmp_path):
    model, _ = task()
    ksa.enable(model.backbone, ksa.SVF())
    model.backbone.trainable = False
    before = trainable(model)
    model.save_to_preset(tmp_path)
    assert trainable(model) == before
    assert sum(before) == 2


def test_an_adapter_without_values_spoils_no_preset(tmp_path):
    backbone, x = two_adapters()
    backbone.save_to_preset(tmp_path)
    empty = type(backbone).from_config(backbone.get_config())
    with pytest.raises(ValueError, match="holds no values yet"):
        empty.save_to_preset(tmp_path)
    again = keras_hub.models.Backbone.from_preset(str(tmp_path))
    np.testing.assert_array_equal(models.output(again(x)), models.output(backbone(x)))


def test_another_precision_with_its_basis(tmp_path):
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVFT(pattern="banded", d=1))
    backbone.save_to_preset(tmp_path, include_basis=True)
    with pytest.warns(UserWarning, match="trained on float32"):
        again = keras_hub.models.Backbone.from_preset(str(tmp_path), dtype="bfloat16")
    assert len(adapted_sites(again)) == 12


def test_without_weights_there_are_no_adapters(tmp_path):
    backbone, _ = two_adapters()
    backbone.save_to_preset(tmp_path)
    again = keras_hub.models.Backbone.from_preset(str(tmp_path), load_weights=False)
    assert not isinstance(again, AdaptedModel)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{", "not well formed"),
        ("[]", "not well formed"),
        ('{"format_version": 2, "adapters": {}}', "version 2.*upgrade"),
        ('{"format_version": 1, "adapters": {"../a": {"of": "backbone", "active": []}}}', "well"),
        ('{"format_version": 1, "adapters": {"a": {"of": "backbone"}}}', "not well formed"),
        (
            '{"format_version": 1, "adapters": {"a": {"of": "backbone", "active": []}}}',
            "is missing",
        ),
    ],
)
def test_an_index_that_lies(index, says, tmp_path):
    backbone, _ = models.bert()
    backbone.save_to_preset(tmp_path)
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(AdapterFileError, match=f"{says}.*Received: "):
        keras_hub.models.Backbone.from_preset(str(tmp_path))


def test_a_hub(tmp_path, monkeypatch):
    from keras_hub.src.utils import preset_utils

    backbone, x = two_adapters()
    backbone.save_to_preset(tmp_path)
    local = preset_utils.get_file
    monkeypatch.setattr(preset_utils, "get_file", lambda _, name: local(str(tmp_path), name))
    again = keras_hub.models.Backbone.from_preset("hf://someone/something")
    np.testing.assert_array_equal(models.output(again(x)), models.output(backbone(x)))


@pytest.mark.parametrize("active", ["wide", None])
def test_which_adapter_is_active_comes_along(active, tmp_path):
    backbone, x = models.bert()
    ksa.enable(backbone, ksa.LoRA(rank=2), name="wide")
    ksa.enable(backbone, ksa.SVF(), targets="*query*", name="narrow", train="*norm*")
    shake(backbone)
    ksa.set_adapter(backbone, active)
    backbone.save_to_preset(tmp_path)
    again = keras_hub.models.Backbone.from_preset(str(tmp_path))
    np.testing.assert_allclose(models.output(again(x)), models.output(backbone(x)), atol=1e-6)
    assert trainable(again) == trainable(backbone)
    assert str(ksa.status(again)) == str(ksa.status(backbone))
