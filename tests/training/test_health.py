"""The callback that says which adapters do not learn."""

import warnings

import keras
import models
import numpy as np
import pytest

import keras_svd_adapters as ksa


def compiled(cut=False):
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, name="used", activation="tanh")(inputs)
    other = keras.layers.Dense(8, name="cut")(inputs)
    outputs = keras.layers.Dense(1, name="head")(hidden + keras.ops.stop_gradient(other))
    model = keras.Model(inputs, outputs)
    ksa.enable(model, ksa.SVF(), ["used", "cut"] if cut else "used")
    model.compile(optimizer=keras.optimizers.SGD(1e-2), loss="mse")
    return model


def fit(model, health, epochs=1, y=None):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 6)), rng.normal(size=(16, 1)) if y is None else y
    model.fit(x, y, batch_size=2, epochs=epochs, verbose=0, callbacks=[health])


def test_a_healthy_run_says_nothing():
    model, health = compiled(), ksa.AdapterHealth(steps=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*arrays of adapters")
        fit(model, health, epochs=2)
    assert len(health.history) == 3
    first, _, last = (look[0] for look in health.history)
    assert (first.path, first.name) == ("used", "z")
    assert 0 < first.moved < last.moved
    z = keras.ops.convert_to_numpy(model.trainable_weights[0])
    np.testing.assert_allclose(last.moved, np.abs(z - 1).max(), rtol=1e-6)
    np.testing.assert_allclose(last.ratio, np.linalg.norm(z - 1) / np.linalg.norm(z), rtol=1e-6)
    assert "used" in str(health)
    figure = health.plot()
    assert [axis.get_title() for axis in figure.axes] == ["z"]
    assert figure.axes[0].get_ylim()[0] == 0


def test_a_layer_without_gradient_is_noticed():
    health = ksa.AdapterHealth(steps=2)
    with pytest.warns(UserWarning, match=r"after 2 steps, 1 of 2 .* not moved.*Received: cut/z"):
        fit(compiled(cut=True), health)
    assert {each.path: each.moved > 0 for each in health.history[0]} == {"used": True, "cut": False}


def test_values_that_are_not_finite_are_noticed():
    with pytest.warns(UserWarning, match=r"hold NaN or infinity.*global_clipnorm.*Received: used/"):
        fit(compiled(), ksa.AdapterHealth(steps=3), y=np.full((16, 1), np.nan))


def test_training_goes_on_as_without_it():
    runs = []
    for callbacks in ([], [ksa.AdapterHealth(steps=1)]):
        keras.utils.set_random_seed(1)
        model, _, x = models.classifier(num_layers=1)
        ksa.enable(model, ksa.LoRA(rank=2))
        model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
        model.fit(x, np.ones((2, 3)), 1, 3, 0, callbacks)
        runs.append([w.numpy() for w in model.weights])
    for with_it, without in zip(*runs, strict=True):
        np.testing.assert_array_equal(with_it, without)


def quietly(model, x, y, health, **kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*arrays of adapters")
        model.fit(x, y, verbose=0, callbacks=[health], **kwargs)


def test_what_cannot_have_moved_yet():
    """LoRA's A at the first update, and everything while gradients gather."""
    x, y = np.ones((12, 6)), np.ones((12, 1))
    for gathered, looks in ((None, 2), (20, 1)):
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
        ksa.enable(model, ksa.LoRA(rank=1), targets="dense*")
        optimizer = keras.optimizers.SGD(1e-2, gradient_accumulation_steps=gathered)
        model.compile(optimizer, "mse")
        health = ksa.AdapterHealth(steps=1)
        quietly(
            model,
            x[:4] if gathered is None else x,
            y[:4] if gathered is None else y,
            health,
            batch_size=4 if gathered is None else 1,
        )
        assert len(health.history) == looks


class Twins(keras.Model):
    def __init__(self):
        super().__init__()
        self.one = keras.Sequential([keras.layers.Dense(6, name="proj")], name="two")
        self.other = keras.Sequential([keras.layers.Dense(6, name="proj")], name="two")

    def call(self, x):
        return self.other(self.one(x))


def test_batches_are_counted_and_layers_of_one_name_are_two():
    model = Twins()
    model(np.ones((1, 6)))
    ksa.enable(model, ksa.SVF(), targets="proj")
    several = 4 if keras.backend.backend() != "torch" else 1
    model.compile("sgd", "mse", steps_per_execution=several)
    health = ksa.AdapterHealth(steps=4)
    x = np.random.default_rng(0).normal(size=(12, 6))
    quietly(model, x, x, health, batch_size=1)
    assert len(health.history[0]) == 2
    assert len(health.history) == 2
    first, last = health.history[0], health.history[-1]
    assert 0 < first[0].moved < last[0].moved


def test_bad_input():
    with pytest.raises(ValueError, match=r"Received: steps=0"):
        ksa.AdapterHealth(steps=0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match=r"no active adapter.*Received: "):
        fit(model, ksa.AdapterHealth())


def test_a_callback_is_made_again_from_its_configuration():
    config = keras.saving.serialize_keras_object(ksa.AdapterHealth(steps=3))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is ksa.AdapterHealth
    assert again.steps == 3


def test_updates_are_counted_over_epochs():
    """At the first update, what is multiplied by 0 stays still; at the second all must move."""
    model, health = compiled(cut=True), ksa.AdapterHealth(steps=10)
    x, y = np.ones((2, 6)), np.ones((2, 1))
    with pytest.warns(UserWarning, match=r"after epoch 2, 1 of 2 .* not moved"):
        model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[health])
