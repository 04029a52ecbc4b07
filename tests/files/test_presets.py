"""A KerasHub preset of an adapted model: the base model's own, and its adapters beside it."""

import json
import warnings

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import numpy, shake
from fresh_process import fresh_process

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.files.archive import AdapterFileError
from keras_svd_adapters.files.presets import from_preset as streaming
from keras_svd_adapters.files.presets.saving import FOLDER, INDEX
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.adapted_model import AdaptedModel
from keras_svd_adapters.runtime.keras_private.layers import refresh_torch_parameters
from keras_svd_adapters.runtime.keras_private.tracing import shapes_only
from keras_svd_adapters.runtime.keras_private.variables import has_value


def task():
    backbone, x = models.bert()
    model = keras_hub.models.BertTextClassifier(backbone, 3, preprocessor=None, dropout=0.0)
    return model, x


def adapted_task():
    model, x = task()
    ksa.enable(model, ksa.SVFT(pattern="banded", d=2), name="pirate", train="logits")
    return model, x


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
    with pytest.warns(UserWarning, match="It trained `.*lacks"):
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


@pytest.mark.parametrize("family", models.FAMILIES)
def test_loading_and_adapting_in_one(family, tmp_path):
    backbone, x = models.FAMILIES[family]()
    backbone.save_to_preset(tmp_path)
    keras.utils.set_random_seed(3)
    loaded = ksa.from_preset(tmp_path, ksa.LoRA(rank=2), verbose=0)
    np.testing.assert_array_equal(models.output(loaded(x)), models.output(backbone(x)))
    assert type(loaded).__mro__[1:] == type(ksa_enabled(backbone)).__mro__[1:]
    assert [w.path.split("/")[1:] for w in loaded.weights] == [
        w.path.split("/")[1:] for w in backbone.weights
    ]
    loaded.compile("adam", "mse")
    y = np.zeros_like(models.output(loaded(x)))
    if not isinstance(loaded.output, dict):
        loaded.fit(x, y, verbose=0)
        assert all(np.any(numpy(w)) for w in loaded.trainable_weights if w.name == "lora_b")
    loaded.save_weights(tmp_path / "all.weights.h5")


def ksa_enabled(backbone):
    keras.utils.set_random_seed(3)
    ksa.enable(backbone, ksa.LoRA(rank=2), verbose=0)
    return backbone


def test_no_second_copy_of_a_weight(tmp_path, monkeypatch):
    """No initializer runs but of what the file lacks; adapters of the preset come along."""
    backbone, x = models.llama()
    ksa.enable(backbone, ksa.SVF(), verbose=0)
    shake(backbone)
    backbone.save_to_preset(tmp_path)

    def failing(*args, **kwargs):
        raise AssertionError("random values for a weight")

    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", failing)
    monkeypatch.setattr(keras.initializers.RandomNormal, "__call__", failing)
    loaded = ksa.from_preset(tmp_path, dtype="float32")
    monkeypatch.undo()
    np.testing.assert_allclose(
        models.output(loaded(x)), models.output(backbone(x)), rtol=0, atol=1e-6
    )


def test_a_task_with_its_head(tmp_path):
    model, x = adapted_task()
    shake(model)
    model.save_to_preset(tmp_path)
    loaded = ksa.from_preset(tmp_path, cls=keras_hub.models.TextClassifier, preprocessor=None)
    np.testing.assert_allclose(numpy(loaded(x)), numpy(model(x)), rtol=0, atol=1e-6)


class Forgetful(keras.layers.Layer):
    """Loads one of its two weights; the other is as it starts."""

    def build(self, input_shape):
        self.kept = self.add_weight(name="kept", shape=(4,), initializer="ones", trainable=False)
        self.read = self.add_weight(name="read", shape=(4,), trainable=False)

    def load_own_variables(self, store):
        self.read.assign(store["1"])

    def call(self, x):
        return x * self.kept + self.read


def test_each_layer_loads_as_it_does(tmp_path):
    """Its own way of loading; what changes after; a weight that the file lacks."""

    def build():
        layers = [Forgetful(name="f"), keras.layers.Normalization(name="n"), keras.layers.Dense(2)]
        return keras.Sequential([keras.Input((4,)), *layers])

    x = np.arange(12, dtype="float32").reshape(3, 4)
    model = build()
    shake(model)
    model.layers[0].read.assign([1.0, 2.0, 3.0, 4.0])
    model.layers[1].adapt(x)
    model.save_weights(tmp_path / "model.weights.h5")
    with shapes_only() as waiting:
        loaded = build()
    streaming._fill(loaded, tmp_path / "model.weights.h5")
    assert not [w for w in waiting if w.name in ("kept", "read", "mean") and not has_value(w)]
    refresh_torch_parameters(loaded)
    np.testing.assert_allclose(numpy(loaded(x)), numpy(model(x)), rtol=0, atol=1e-6)
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with shapes_only():
        loaded = build()
    with pytest.raises(ValueError, match=r"do not fit the model[\s\S]*Received: .*other"):
        streaming._fill(loaded, tmp_path / "other.weights.h5")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_task_in_parts(dtype, tmp_path):
    """Of the backbone's preset alone, with a new head."""
    model, x = task()
    model.backbone.save_to_preset(tmp_path, max_shard_size=1e-5)
    assert len(list(tmp_path.glob("model_*.weights.h5"))) > 1
    cls = keras_hub.models.BertTextClassifier
    task_of = {"dtype": dtype, "preprocessor": None, "num_classes": 2}
    how = task_of | {"targets": {"query": ksa.SVF()}, "verbose": 0}
    loaded = ksa.from_preset(tmp_path, cls=cls, **how)
    plain = cls.from_preset(str(tmp_path), **task_of)
    assert {site.name for site in adapted_sites(loaded)} == {"query"}
    with ksa.disabled(loaded):
        ours_, theirs = loaded.backbone(x), plain.backbone(x)
    assert loaded.backbone.token_embedding.embeddings.dtype == dtype
    np.testing.assert_array_equal(models.output(ours_), models.output(theirs))
    assert np.isfinite(numpy(loaded(x))).all()


def test_what_cannot_be_streamed(tmp_path, monkeypatch):
    for content in ((), ("model.safetensors",)):
        for name in content:
            (tmp_path / name).touch()
        with pytest.raises(ValueError, match=r"reads a directory with[\s\S]*Received"):
            ksa.from_preset(tmp_path)
    bert, _ = models.bert()
    bert.save_to_preset(tmp_path / "bert")
    for how, told in (
        ({"targets": "query"}, "Without a method"),
        ({"method": ksa.SVF(), "targets": "qwery"}, "qwery"),
        ({"method": ksa.SVF(), "name": "a b"}, "word of letters"),
        ({"method": ksa.LoRA(rank=500)}, "does not suit"),
    ):
        with monkeypatch.context() as context:
            context.setattr(streaming, "_fill", None)  # none of them reads a weight
            with pytest.raises(ValueError, match=told):
                ksa.from_preset(tmp_path / "bert", **how)
    models.llama()[0].save_weights(tmp_path / "bert" / "model.weights.h5", overwrite=True)
    with pytest.raises(ValueError, match=r"do not fit the model[\s\S]*Received: .*weights.h5"):
        ksa.from_preset(tmp_path / "bert")


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


def test_a_head_that_no_adapter_trains_comes_from_the_task(tmp_path):
    model, x = task()
    ksa.enable(model.backbone, ksa.LoRA(rank=2))
    shake(model.get_layer("logits"))
    model.save_to_preset(tmp_path)
    how = {"cls": keras_hub.models.TextClassifier, "preprocessor": None}
    loaded = ksa.from_preset(tmp_path, **how)
    np.testing.assert_allclose(numpy(loaded(x)), numpy(model(x)), rtol=0, atol=1e-6)
    assert numpy(ksa.from_preset(tmp_path, num_classes=5, **how)(x)).shape == (2, 5)
