"""Weights that several adapters train by `train=`, such as a head: each has its own values."""

import copy

import keras
import numpy as np
import pytest
from cases import shake
from mixed_batch import alone
from own_weights import X, adapted, add, head, outputs, plain, same

import keras_svd_adapters as ksa

IDS = ["a", "b", None, "b", "a", "c"]
TRAINED = {
    "a head": {"train": "head"},
    "a head and a norm": {"train": ["head", "norm"]},
    "a bias of an adapted layer": {"train": "head", "bias": "adapted"},
    "a table": {"train": ["table", "head/bias"]},
    "moving statistics": {"train": "batch"},
    "a recurrent layer": {"train": "gru"},
}


@pytest.mark.parametrize("how", TRAINED.values(), ids=TRAINED)
def test_each_sample_has_the_weights_of_its_adapter(how):
    model = adapted(how)
    for held in "ab":  # the adapter whose values the weights hold
        ksa.set_adapter(model, held)
        ksa.set_adapter(model, "c")
        names = {name: held if name in (None, "c") else name for name in IDS}
        found = ksa.predict(model, X, IDS, batch_size=4)
        for name in set(IDS):
            ksa.set_adapter(model, names[name])  # gives the weights their values
            ksa.set_adapter(model, name)
            expected = model.predict(X, verbose=0)
            here = [each == name for each in IDS]
            np.testing.assert_allclose(found[here], expected[here], atol=1e-5, err_msg=str(name))
        ksa.set_adapter(model, "b")
        whole = outputs(model)
        assert np.abs(whole["a"] - whole["b"]).max() > 0.05
        np.testing.assert_allclose(ksa.predict(model, X, ["a"] * 6), whole["a"], atol=1e-5)


def test_an_adapter_of_the_layer_itself_comes_later():
    model = adapted({"train": "head/bias"})
    ksa.enable(model, ksa.LoRA(rank=2), targets="head", name="d", verbose=0)
    shake(model)
    ids = ["a", "d", "b"] * 2
    found = ksa.predict(model, X, ids)
    for name in "dab":
        ksa.set_adapter(model, "b")  # whose bias `d` has
        ksa.set_adapter(model, name)
        here = [each == name for each in ids]
        np.testing.assert_allclose(found[here], model.predict(X, verbose=0)[here], atol=1e-5)
    for name in "abdc":
        ksa.delete_adapter(model, name)
    assert type(model.get_layer("head")) is keras.layers.Dense


def test_training_one_leaves_the_other():
    model = adapted({"train": "head"})
    expected = outputs(model)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(X, np.ones((6, 5, 3)), verbose=0)
    found = outputs(model, ("b", "a"))
    np.testing.assert_array_equal(found["a"], expected["a"])
    assert np.abs(found["b"] - expected["b"]).max() > 0.01


def test_a_switch_inside_fit_starts_the_slots_of_the_head_again():
    model = adapted({"train": "head"})
    ksa.set_adapter(model, "a")
    model.compile(keras.optimizers.Adam(0.1), "mse")

    class Switch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            ksa.set_adapter(model, "ba"[epoch])

    twin = copy.deepcopy(model)
    model.fit(X, np.ones((6, 5, 3)), epochs=2, verbose=0, callbacks=[Switch()], shuffle=False)
    for name in "ba":
        ksa.set_adapter(twin, name)
        twin.compile(keras.optimizers.Adam(0.1), "mse")
        twin.fit(X, np.ones((6, 5, 3)), verbose=0, shuffle=False)
    same(outputs(model), outputs(twin))


def test_deleting_one_keeps_the_other():
    model = adapted({"train": "head"})
    expected = outputs(model)  # which leaves `b` active
    last = head(model)
    ksa.delete_adapter(model, "b")
    for value, before in zip(head(model), last):
        np.testing.assert_array_equal(value, before)
    ksa.delete_adapter(model, "c")
    twin = copy.deepcopy(model)
    for each in (model, twin):
        same(outputs(each, "a"), {"a": expected["a"]})
        assert type(each.get_layer("head")).__mro__[1] is keras.layers.Dense.__mro__[1]
    ksa.merge(model)
    np.testing.assert_allclose(model.predict(X, verbose=0), expected["a"], atol=1e-5)
    assert len(model.weights) == len(plain().weights)
    ksa.unmerge(model)
    same(outputs(model, "a"), {"a": expected["a"]})


def test_conversion_takes_the_head_along():
    model = adapted({"train": "head"})
    expected = outputs(model)
    ksa.set_adapter(model, "a")
    ksa.to_lora(model, "b", into="new")
    same(outputs(model, ("new", "a")), {"new": expected["b"], "a": expected["a"]}, atol=1e-4)


def test_one_weight_has_the_values_of_one_adapter_at_a_time():
    model = plain()
    add(model, "a", train="head")
    shake(model)
    before = model.predict(X, verbose=0)
    with pytest.raises(ValueError, match="trains with the adapter 'a', which stays.*Received: tr"):
        ksa.enable(model, ksa.LoRA(rank=1), targets="gru*", name="d", train="head", verbose=0)
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)
    ksa.set_adapter(model, None)
    ksa.enable(model, ksa.LoRA(rank=1), targets="head", name="d", train="head/bias", verbose=0)
    with pytest.raises(ValueError, match=r"one adapter at a time.*Received: .*trains `head/bias`"):
        ksa.set_adapter(model, ["a", "d"])
    assert [row[0] for row in ksa.status(model).adapters if row[-1] == "yes"] == ["d"]


def test_an_error_while_the_second_is_attached_leaves_the_first(monkeypatch):
    model = plain()
    add(model, "a", train="head")
    shake(model)
    expected, count = model.predict(X, verbose=0), len(model.weights)
    with monkeypatch.context() as patch:
        patch.setattr("keras_svd_adapters.models.refresh.update_functions", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add(model, "b", train="head")
    np.testing.assert_array_equal(model.predict(X, verbose=0), expected)
    assert len(model.weights) == count
    add(model, "b", train="head")
    shake(model, seed=5)
    same(outputs(model, "a"), {"a": expected})


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_half_precision(dtype):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = adapted({"train": "head"})
    finally:
        keras.config.set_dtype_policy(before)
    ids = ["a", "b"] * 3
    found = ksa.predict(model, X, ids).astype("float32")
    np.testing.assert_allclose(found, alone(model, X, ids).astype("float32"), atol=0.05)


def around():
    """A backbone with the kernels, and a task around it with the head."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    backbone = keras.Model(inputs, keras.layers.Dense(8, name="up")(inputs), name="backbone")
    task = keras.Model(inputs, keras.layers.Dense(3, name="head")(backbone(inputs)))
    for seed, name in enumerate("ab"):
        add(task, name, train="head")
        shake(task, seed=seed)
    return backbone, task, np.random.default_rng(0).normal(size=(6, 6)).astype("float32")


def test_verbs_on_a_part_reach_the_weights_of_the_whole():
    backbone, task, x = around()
    expected = {}
    for name in "ab":
        ksa.set_adapter(task, name)
        expected[name] = task.predict(x, verbose=0)
    for name in "ab":
        ksa.set_adapter(backbone, name)
        np.testing.assert_allclose(task.predict(x, verbose=0), expected[name], atol=1e-6)
    ksa.delete_adapter(backbone, "a")
    add(task, "a", train="head")
    for owner in "ab":
        ksa.delete_adapter(backbone, owner)
    assert type(task.get_layer("head")) is keras.layers.Dense
    assert len(task.weights) == 4


def test_snapshots_of_all_weights_outlive_a_switch():
    model = adapted({"train": "head"})
    expected = outputs(model)
    ksa.set_adapter(model, "a")
    weights = model.get_weights()
    ksa.set_adapter(model, "b")
    shake(model, seed=9)
    model.set_weights(weights)
    same(outputs(model, "ba"), expected)
    twin = copy.deepcopy(model)
    twin.set_weights(model.get_weights())
    same(outputs(twin, "ab"), expected)


def test_an_interrupted_switch_loses_no_values(monkeypatch):
    model = adapted({"train": "head"})
    expected = outputs(model)
    ksa.delete_adapter(model, "b")
    with monkeypatch.context() as patch:
        patch.setattr("keras_svd_adapters.models.refresh.update_functions", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ksa.set_adapter(model, "a")
    same(outputs(model, "a"), {"a": expected["a"]})


def test_a_second_owner_is_not_activated_in_passing():
    model = adapted({"train": "head"})
    before = outputs(model, "ab")  # which leaves `b` active
    with pytest.raises(ValueError, match="one adapter at a time.*Received:.*'a', 'b'"):
        ksa.enable(model, ksa.LoRA(rank=1), targets="table", name="a", verbose=0)
    same(outputs(model, "ab"), before)
