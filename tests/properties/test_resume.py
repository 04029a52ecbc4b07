"""Training that was interrupted goes on as if it had not been, bit for bit."""

import warnings
from functools import cache

import keras
import models
import numpy as np
import pytest

import keras_svd_adapters as ksa

METHODS = {
    "lora_dropout": ksa.LoRA(rank=2, dropout=0.3),
    "vera": ksa.VeRA(rank=4),
    "pissa": ksa.PiSSA(rank=2),
    "svft": ksa.SVFT(pattern="random", d=2),
    "mola": ksa.methods.MoLA(rank=2, experts=2, top_k=1, balance=0.1),
    "serial": ksa.methods.SerialAdapter(size=2, dropout=0.3),
}
EPOCHS = 1


def data():
    rng = np.random.default_rng(4)
    ids = rng.integers(1, models.TOKENS, (24, 8)).astype("int32")
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    return x, rng.integers(0, 3, 24)


def adapted(method, seed=5):
    keras.utils.set_random_seed(seed)
    model, _, _ = models.classifier(num_layers=1)
    head = model.get_layer("head")
    head.kernel.assign(np.random.default_rng(9).normal(size=head.kernel.shape))
    ksa.enable(model, method, train="head")
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2, weight_decay=1e-2, name="adam"),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def fit(model, first, last, *callbacks):
    x, y = data()
    return model.fit(x, y, 8, last, 0, list(callbacks), shuffle=False, initial_epoch=first)


def same(model, other):
    """Every weight and every optimizer slot, bit for bit."""
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)
    ours, theirs = model.optimizer.variables, other.optimizer.variables
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    x, _ = data()
    np.testing.assert_array_equal(model.predict(x, verbose=0), other.predict(x, verbose=0))


@cache
def straight(method):
    """A model that trained without a break."""
    model = adapted(method)
    fit(model, 0, 2 * EPOCHS)
    return model


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_from_a_whole_model(method, tmp_path):
    expected = straight(method)
    model = adapted(method)
    fit(model, 0, EPOCHS, keras.callbacks.ModelCheckpoint(tmp_path / "m.keras"))
    again = keras.saving.load_model(tmp_path / "m.keras")
    fit(again, EPOCHS, 2 * EPOCHS)
    same(again, expected)


@pytest.mark.parametrize("name", ["lora_dropout", "vera"])
def test_from_weights_alone(name, tmp_path):
    method = METHODS[name]
    expected = straight(method)
    model = adapted(method)
    fit(
        model,
        0,
        EPOCHS,
        keras.callbacks.ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True),
    )
    again = adapted(method, seed=6)
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "m.weights.h5")
    fit(again, EPOCHS, 2 * EPOCHS)
    same(again, expected)


def test_from_shards(tmp_path):
    expected = straight(METHODS["vera"])
    model = adapted(METHODS["vera"])
    fit(model, 0, EPOCHS)
    model.save_weights(tmp_path / "m.weights.json", max_shard_size=1e-5)
    assert len(list(tmp_path.glob("*.h5"))) > 1
    again = adapted(METHODS["vera"], seed=6)
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "m.weights.json")
    fit(again, EPOCHS, 2 * EPOCHS)
    same(again, expected)


def test_from_orbax(tmp_path):
    method = METHODS["lora_dropout"]
    expected = straight(method)
    model = adapted(method)
    checkpoint = keras.callbacks.OrbaxCheckpoint(tmp_path, save_on_background=False)
    fit(model, 0, EPOCHS, checkpoint)
    again = adapted(method, seed=6)
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path)
    for resumed in (again, keras.saving.load_model(tmp_path)):
        fit(resumed, EPOCHS, 2 * EPOCHS)
        same(resumed, expected)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_weights_by_assignment(method):
    model = adapted(method)
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    x, _ = data()
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


class Killed(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == EPOCHS:
            raise KeyboardInterrupt


def test_backup_and_restore(tmp_path):
    method = METHODS["lora_dropout"]
    expected = straight(method)
    model = adapted(method)
    with pytest.raises(KeyboardInterrupt):
        fit(model, 0, 2 * EPOCHS, keras.callbacks.BackupAndRestore(tmp_path), Killed())
    again = adapted(method, seed=6)
    fit(again, 0, 2 * EPOCHS, keras.callbacks.BackupAndRestore(tmp_path))
    same(again, expected)


@pytest.mark.parametrize("form", ["m.weights.h5", "m.weights.json", "m.keras"])
def test_adapted_weights_in_a_plain_model_are_noticed(form, tmp_path):
    sharded = {"max_shard_size": 1e-5} if form.endswith("json") else {}
    backbone, x = models.bert()
    expected = models.output(backbone(x))
    ksa.enable(backbone, ksa.LoRA(rank=2), name="pirate")
    if form.endswith(".keras"):
        backbone.save(tmp_path / form)
    else:
        backbone.save_weights(tmp_path / form, **sharded)
    plain, _ = models.bert()
    with pytest.warns(UserWarning, match=r"adapters \['pirate'\] of 12 layers.*Received: "):
        plain.load_weights(tmp_path / form)
    np.testing.assert_array_equal(models.output(plain(x)), expected)
    ksa.enable(plain, ksa.LoRA(rank=2), name="pirate")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain.load_weights(tmp_path / form)


def test_a_part_of_an_adapter_is_left_out(tmp_path):
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.LoRA(rank=2))
    backbone.save_weights(tmp_path / "m.weights.h5")
    other, _ = models.bert()
    ksa.enable(other, ksa.LoRA(rank=2), targets="query")
    with pytest.warns(UserWarning, match=r"adapters \['default'\] of 10 layers"):
        other.load_weights(tmp_path / "m.weights.h5")


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.adapter_in = keras.layers.Dense(3)

    def call(self, x):
        return self.adapter_in(x)


def test_a_layer_that_only_sounds_like_an_adapter(tmp_path):
    model = Own()
    model(np.ones((1, 2)))
    model.save_weights(tmp_path / "m.weights.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_weights(tmp_path / "m.weights.h5")
