"""Several threads use one model, and one of them switches its adapter."""

import random
import threading

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import EVERY, EVERY_METHOD, FURTHER, numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters.models.state.locked_model import running

THREADS, CALLS = 8, 200 if EVERY else 12
X = np.random.default_rng(0).normal(size=(6, 8)).astype("float32")
NAMES = ("a", "b", None)
SOME = EVERY_METHOD if EVERY else EVERY_METHOD.keys() - FURTHER
TABLE = {
    n: c.method
    for n, c in EVERY_METHOD.items()
    if n in SOME and n != "token_rows" and not c.variant
}


def adapted():
    """One model with a layer for each method, and two adapters."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    outputs = {name: keras.layers.Dense(8, name=name)(inputs) for name in TABLE}
    model = keras.Model(inputs, outputs)
    for name in "ab":
        ksa.enable(model, targets=TABLE, name=name, verbose=0)
        shake(model, 0.3, seed=ord(name))
    return model


def as_array(outputs):
    return np.stack([np.asarray(outputs[name]) for name in TABLE])


def in_threads(work, count=THREADS):
    """Run `work(random numbers)` in each thread; return what went wrong."""
    errors = []

    def run(seed):
        try:
            work(random.Random(seed))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
        assert not thread.is_alive()
    return errors


def test_each_call_answers_as_alone():
    model, alone = adapted(), {}
    for name in ("b", None, "a"):
        ksa.set_adapter(model, name)
        alone[name] = as_array(model.predict(X, verbose=0))
    assert np.abs(alone["a"] - alone["b"]).max((1, 2)).min() > 0.01

    def near(found, *names):
        assert min(np.abs(found - alone[name]).max() for name in names) < 1e-4

    def mixed(draw):
        ids = draw.sample(NAMES * 2, len(X))
        found = as_array(ksa.predict(model, X, ids))
        expected = np.stack([alone[name][:, row] for row, name in enumerate(ids)], axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-4)

    def without(draw):
        with ksa.disabled(model):
            near(as_array(model.predict(X, verbose=0)), None)

    def plain(draw):
        near(as_array(model.predict(X, verbose=0)), "a", "b")

    def called(draw):
        near(as_array({name: numpy(y) for name, y in model(X).items()}), "a", "b")

    def switch(draw):
        ksa.set_adapter(model, draw.choice("ab"))

    def work(draw):
        for _ in range(CALLS):
            draw.choice((mixed, mixed, mixed, without, plain, called, switch))(draw)

    assert not in_threads(work)
    ksa.set_adapter(model, "b")
    near(as_array(model.predict(X, verbose=0)), "b")


@pytest.mark.filterwarnings("ignore:An unmerged adapter")
def test_generating_answers_as_alone():
    backbone, _ = models.llama(num_layers=1)
    task = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
    task.compile(sampler="greedy")
    for name in "ab":  # and each has its own values of the norms
        ksa.enable(task, ksa.LoRA(rank=2), name=name, train="*_layernorm", verbose=0)
        shake(task, 1.0, seed=ord(name))
    prompt = models.text() | {"padding_mask": np.array([[1, 1, 0, 0, 0, 0, 0, 0]] * 2)}
    alone = {}
    for name in ("b", None, "a"):
        ksa.set_adapter(task, name)
        alone[name] = numpy(task.generate(prompt, stop_token_ids=None)["token_ids"])
    assert not np.array_equal(alone["a"], alone["b"])

    def mixed(draw):
        ids = draw.sample(("a", "b"), 2)
        found = ksa.generate(task, prompt, ids, stop_token_ids=None)["token_ids"]
        expected = np.stack([alone[name][row] for row, name in enumerate(ids)])
        np.testing.assert_array_equal(numpy(found), expected)

    def plain(draw):
        found = numpy(task.generate(prompt, stop_token_ids=None)["token_ids"])
        assert any(np.array_equal(found, alone[name]) for name in "ab")

    def switch(draw):
        ksa.set_adapter(task, draw.choice("ab"))

    def work(draw):
        for _ in range(CALLS // 4):
            draw.choice((mixed, plain, switch))(draw)

    assert not in_threads(work)


def test_a_change_waits_for_those_who_use_the_model():
    model, entered, leave = adapted(), threading.Event(), threading.Event()
    seen = []

    def use():
        with ksa.disabled(model):
            entered.set()
            leave.wait(60)
            seen.append("used")

    def change():
        ksa.set_adapter(model, "a")
        seen.append("changed")

    threads = [threading.Thread(target=use), threading.Thread(target=change)]
    threads[0].start()
    entered.wait(60)
    threads[1].start()
    threads[1].join(0.2)
    assert not seen
    leave.set()
    for thread in threads:
        thread.join(60)
    assert seen == ["used", "changed"]


def test_a_wait_that_never_ends_raises():
    model, both = adapted(), threading.Barrier(2)

    def use_and_change(draw):
        with running(model):
            both.wait(60)
            ksa.set_adapter(model, "a")

    (error,) = in_threads(use_and_change, 2)
    assert isinstance(error, RuntimeError)
    assert "each would wait for the other" in str(error)


class Fails(keras.callbacks.Callback):
    def on_predict_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["id", "interrupt", "disabled", "batch"])
def test_an_error_leaves_the_model_as_it_was(how):
    model = adapted()
    before = as_array(model.predict(X, verbose=0))
    if how == "id":
        with pytest.raises(ValueError, match="no such adapter"):
            ksa.predict(model, X, ["a", "b", "nobody", "a", "b", None])
    elif how == "interrupt":
        with pytest.raises(KeyboardInterrupt):
            ksa.predict(model, X, ["a", "b", None] * 2, batch_size=2, callbacks=[Fails()])
        with pytest.raises(KeyboardInterrupt):
            model.predict(X, batch_size=2, verbose=0, callbacks=[Fails()])
    elif how == "disabled":
        with pytest.raises(KeyboardInterrupt), ksa.disabled(model):
            model.predict(X, batch_size=2, verbose=0, callbacks=[Fails()])
    else:
        with pytest.raises(Exception):  # noqa: B017 - of the backend
            model.predict(np.zeros((2, 5), "float32"), verbose=0)
    np.testing.assert_array_equal(as_array(model.predict(X, verbose=0)), before)
