"""`from_preset`: loading and adapting in one, layer by layer."""

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import numpy, shake
from tasks import adapted_task, task

import keras_svd_adapters as ksa
from keras_svd_adapters.files.presets import from_preset as streaming
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.runtime.keras_private.layers import refresh_torch_parameters
from keras_svd_adapters.runtime.keras_private.tracing import shapes_only
from keras_svd_adapters.runtime.keras_private.variables import stored_value


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
    assert not [
        w for w in waiting if w.name in ("kept", "read", "mean") and stored_value(w) is None
    ]
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


def test_a_head_that_no_adapter_trains_comes_from_the_task(tmp_path):
    model, x = task()
    ksa.enable(model.backbone, ksa.LoRA(rank=2))
    shake(model.get_layer("logits"))
    model.save_to_preset(tmp_path)
    how = {"cls": keras_hub.models.TextClassifier, "preprocessor": None}
    loaded = ksa.from_preset(tmp_path, **how)
    np.testing.assert_allclose(numpy(loaded(x)), numpy(model(x)), rtol=0, atol=1e-6)
    assert numpy(ksa.from_preset(tmp_path, num_classes=5, **how)(x)).shape == (2, 5)
