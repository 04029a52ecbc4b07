"""`model.save` of an adapted model: a fresh process gets it back, unmerged and learning."""

import pickle
import warnings

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import METHODS, batch, shake, wrapped_layer
from fresh_process import fresh_process

import keras_svd_adapters as ksa


def functional():
    model, backbone, x = models.classifier(num_layers=1)
    targets = {"query": METHODS["lora"].method, "*": METHODS["svft_random"].method}
    ksa.enable(backbone, targets=targets, train="*norm*")
    return model, x, np.array([0, 2])


def rooted():
    model, _, x = models.classifier(num_layers=1)
    ksa.enable(model, METHODS["svft_banded"].method, train="head")
    return model, x, np.array([0, 2])


def task():
    backbone, x = models.bert(num_layers=1)
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=3, dropout=0.0)
    model.preprocessor = None
    ksa.enable(backbone, METHODS["svf"].method)
    return model, x, np.array([0, 2])


def layers(*names):
    model, width = keras.Sequential([keras.Input((6,))]), 6
    for name in names:
        base = keras.layers.Dense(16, activation="relu")
        base.build((None, width))
        model.add(wrapped_layer(METHODS[name].method, base))
        width = base.units
    model.add(keras.layers.Dense(3))
    return model, batch((4, 6)), np.array([0, 2, 1, 1])


BUILDERS = {
    "functional": functional,
    "rooted": rooted,
    "task": task,
    "layers": lambda: layers("svf_factored", "svft_plain"),
}


def test_reload_and_learn(tmp_path):
    cases = {}
    for name, build in BUILDERS.items():
        keras.utils.set_random_seed(5)
        model, x, y = build()
        shake(model, 0.02)
        model.compile(
            optimizer=keras.optimizers.Adam(1e-2),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(x, y, verbose=0)
        model.save(tmp_path / f"{name}.keras")
        slots = [v.numpy() for v in model.optimizer.variables]
        if name == "task":  # KerasHub's own `compile` does not restore optimizer state
            slots = reloaded_slots(tmp_path / f"{name}.keras")
        cases[name] = (x, y, model.predict(x, verbose=0), slots)
    (tmp_path / "cases.pickle").write_bytes(pickle.dumps(cases))
    assert fresh_process("reload_and_learn.py", tmp_path).wait() == 0


def reloaded_slots(path):
    return [v.numpy() for v in keras.saving.load_model(path).optimizer.variables]


@keras.saving.register_keras_serializable("tests")
class Around(keras.Model):
    """A subclassed model that holds a backbone and layers that Keras builds late."""

    def __init__(self, backbone, **kwargs):
        super().__init__(**kwargs)
        self.backbone, self.head = backbone, keras.layers.Dense(2)

    def call(self, x):
        return self.head(self.backbone(x)["sequence_output"])

    def get_config(self):
        return {"backbone": keras.saving.serialize_keras_object(self.backbone)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["backbone"]))


@pytest.mark.parametrize("adapted", ["backbone", "model"])
def test_a_subclassed_model(adapted, tmp_path):
    backbone, x = models.bert()
    model = Around(backbone)
    model.predict(x, verbose=0)
    ksa.enable(backbone if adapted == "backbone" else model, ksa.SVF())
    shake(model)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), expected)
    names = [[w.name for w in m.trainable_weights] for m in (again, model)]
    assert names[0] == names[1]


def test_models_that_share_layers(tmp_path):
    model, backbone, x = models.classifier()
    ksa.enable(backbone, ksa.SVF())
    shake(backbone)
    expected = model.predict(x, verbose=0)
    keras.saving.save_model(model, tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), expected)


def test_what_trained_before_trains_after_reload_and_merge(tmp_path):
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    count = len(model.trainable_weights)
    ksa.enable(model, ksa.SVF())
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert len(again.trainable_weights) == 1
    ksa.merge(again)
    assert len(again.trainable_weights) == count


def test_a_backbone_that_was_frozen_reloads_with_a_training_adapter(tmp_path):
    model, backbone, _ = models.classifier()
    backbone.trainable = False
    ksa.enable(model, ksa.SVF(), train="embeddings_layer_norm")
    expected = [weight.name for weight in model.trainable_weights]
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert [weight.name for weight in again.trainable_weights] == expected


def test_a_public_layer_whose_adapter_rests(tmp_path):
    model, x, _ = layers("svft_banded")
    shake(model)
    tuned = model.predict(x, verbose=0)
    ksa.set_adapter(model, None)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    ksa.set_adapter(again, "default")
    np.testing.assert_array_equal(again.predict(x, verbose=0), tuned)


@pytest.mark.parametrize("name", ["lora", "dora", "svf", "svft_banded"])
def test_base_weights_into_an_adapted_model(name, tmp_path):
    method = METHODS[name].method
    other, x = models.bert()
    for weight in other.weights:
        weight.assign(weight * 1.5)
    other.save_weights(tmp_path / "base.weights.h5")
    backbone, _ = models.bert()
    ksa.enable(backbone, method)
    backbone.load_weights(tmp_path / "base.weights.h5")
    np.testing.assert_array_equal(models.output(backbone(x)), models.output(other(x)))
    ksa.enable(other, method)
    for model in (backbone, other):
        for weight in model.trainable_weights:
            weight.assign(np.full(weight.shape, 0.1))
    np.testing.assert_allclose(models.output(backbone(x)), models.output(other(x)), atol=1e-5)


def test_weights_files_cross(tmp_path):
    backbone, x = models.bert()
    backbone.save_weights(tmp_path / "base.weights.h5")
    plain = models.output(backbone(x))
    ksa.enable(backbone, ksa.SVFT(pattern="banded", d=1))
    shake(backbone)
    tuned = models.output(backbone(x))
    backbone.save_weights(tmp_path / "adapted.weights.h5")

    again, _ = models.bert()
    ksa.enable(again, ksa.SVFT(pattern="banded", d=1))
    again.load_weights(tmp_path / "adapted.weights.h5")
    np.testing.assert_array_equal(models.output(again(x)), tuned)

    base, _ = models.bert()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base.load_weights(tmp_path / "adapted.weights.h5")
    np.testing.assert_array_equal(models.output(base(x)), plain)


def test_an_empty_adapter_refuses_to_run():
    backbone, x = models.bert()
    ksa.enable(backbone, ksa.SVF())
    copy = type(backbone).from_config(backbone.get_config())
    with pytest.raises(RuntimeError, match="holds no values yet"):
        copy(x)


def test_a_merged_model_needs_nothing_of_ours(tmp_path):
    model, backbone, x = models.classifier()
    ksa.enable(backbone, ksa.SVF())
    shake(backbone)
    model.save(tmp_path / "adapted.keras")
    ksa.merge(backbone)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "m.keras")
    assert b"keras_svd_adapters" not in (tmp_path / "m.keras").read_bytes()
    np.testing.assert_array_equal(
        keras.saving.load_model(tmp_path / "m.keras").predict(x, verbose=0), expected
    )


@pytest.mark.parametrize("save", [keras.saving.save_model, keras.models.save_model])
def test_a_model_around_adapted_layers_by_either_function(save, tmp_path):
    backbone, x = models.bert()
    ksa.enable(backbone, ksa.LoRA(rank=2))
    shake(backbone)
    pooled = keras.ops.mean(backbone.output["sequence_output"], axis=1)
    model = keras.Model(backbone.input, keras.layers.Dense(3)(pooled))
    save(model, tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
