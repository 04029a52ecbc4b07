"""Verbs in a callback of `fit`: the same as between two calls of `fit`."""

import keras
import numpy as np
import pytest
from cases import EVERY, numpy, shake
from fit_modes import MODES, compiled

import keras_svd_adapters as ksa

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 2)).astype("float32")
BATCH = 2
LORA = ksa.LoRA(rank=2)


def adapted(names="ab", dtype="float32"):
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((6,))
    for name in ("up", "mid"):
        x = keras.layers.Dense(8, activation="gelu", name=name, dtype=dtype)(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    for name in names:
        ksa.enable(model, LORA, targets=["up", "mid"], name=name)
        shake(model, seed=ord(name))
    return model


class Once(keras.callbacks.Callback):
    """Calls a verb once, at the first time of a moment or, within an epoch, at its second batch."""

    def __init__(self, moment, verb):
        super().__init__()
        self.verb = verb
        self.left = 2 if "batch" in moment else 1
        setattr(self, f"on_{moment}", self.call)

    def call(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            self.verb(self.model)


VERBS = {
    "set_adapter": lambda model, folder: ksa.set_adapter(model, "a"),
    "enable": lambda model, folder: ksa.enable(model, LORA, targets="up", name="c"),
    "delete_adapter": lambda model, folder: (
        ksa.delete_adapter(model, "b"),
        ksa.set_adapter(model, "a"),
    ),
    "merge": lambda model, folder: (ksa.delete_adapter(model, "a"), ksa.merge(model)),
    "unmerge": lambda model, folder: (
        ksa.delete_adapter(model, "a"),
        ksa.merge(model),
        ksa.unmerge(model),
    ),
    "combine": lambda model, folder: ksa.combine(model, {"a": 0.5, "b": 0.5}, into="c", how="cat"),
    "load_adapter": lambda model, folder: ksa.load_adapter(
        model, folder / "a.keras", name="c", verbose=0
    ),
}
BATCHES_BEFORE = {
    "train_begin": 0,
    "epoch_begin": 0,
    "train_batch_begin": 1,
    "train_batch_end": 2,
    "epoch_end": 8,
}
TABLES = (list(VERBS), list(BATCHES_BEFORE), list(MODES))
if EVERY:
    CASES = [(verb, moment, "default") for verb in VERBS for moment in BATCHES_BEFORE]
    CASES += [(verb, "train_batch_end", mode) for verb in VERBS for mode in list(MODES)[1:]]
else:  # each verb, each moment and each mode
    CASES = [tuple(each[i % len(each)] for each in TABLES) for i in range(max(map(len, TABLES)))]


def fit(model, start=0, stop=None, epochs=1, callbacks=()):
    rows = slice(start * BATCH, None if stop is None else stop * BATCH)
    data = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    if len(X[rows]):
        model.fit(X[rows], Y[rows], epochs=epochs, callbacks=list(callbacks), **data)


@pytest.mark.filterwarnings("ignore:The optimizer of")
@pytest.mark.parametrize(("verb", "moment", "mode"), CASES)
def test_as_between_two_fits(verb, moment, mode, tmp_path):
    before = BATCHES_BEFORE[moment]
    if "batch" in moment:
        before *= MODES[mode].get("steps_per_execution", 1)
    dtype = MODES[mode].get("dtype", "float32")
    found, expected = adapted(dtype=dtype), adapted(dtype=dtype)
    ksa.save_adapter(found, tmp_path / "a.keras", name="a")

    def change(model):
        keras.utils.set_random_seed(5)
        VERBS[verb](model, tmp_path)

    compiled(found, **MODES[mode])
    fit(found, epochs=2, callbacks=[Once(moment, change)])
    compiled(expected, **MODES[mode])
    if before == 0:  # an optimizer that was built, as it is inside of `fit`
        expected.optimizer.build(expected.trainable_variables)
    fit(expected, 0, before)
    change(expected)
    if not expected.optimizer.built:
        expected.optimizer.build(expected.trainable_variables)
    fit(expected, before)
    fit(expected)
    assert [w.path for w in found.trainable_weights] == [w.path for w in expected.trainable_weights]
    for one, other in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), atol=2e-5, err_msg=one.path)
    assert int(found.optimizer.iterations) == int(expected.optimizer.iterations)


def test_slots_of_what_stays_are_kept():
    model = adapted("a")
    compiled(model)
    fit(model)
    optimizer = model.optimizer
    kept = dict(zip(map(id, optimizer._trainable_variables), optimizer._momentums, strict=True))
    with pytest.warns(UserWarning, match="keeps the state of 4 variables"):
        ksa.enable(model, LORA, targets="head", name="c")
    now = model.optimizer
    assert now is not optimizer
    assert int(now.iterations) == int(optimizer.iterations) == 8
    slots = dict(zip(map(id, now._trainable_variables), now._momentums, strict=True))
    assert (len(slots), len(kept)) == (6, 4)
    for key, slot in slots.items():
        if key in kept:
            assert np.abs(numpy(slot)).max() > 0
            np.testing.assert_array_equal(numpy(slot), numpy(kept[key]))
        else:
            assert not np.abs(numpy(slot)).max()


@pytest.mark.parametrize("optimizer", ["Adafactor", "Nadam", "SGD", "Lion", "AdamW"])
def test_each_optimizer_goes_on(optimizer):
    model = adapted("a")
    model.compile(getattr(keras.optimizers, optimizer)(1e-3, use_ema=optimizer == "AdamW"), "mse")
    enable = Once("train_batch_end", lambda m: ksa.enable(m, LORA, targets="head", name="c"))
    has_state = "starts at step 0" if optimizer == "SGD" else "keeps the state of 4 variables"
    with pytest.warns(UserWarning, match=has_state):
        fit(model, callbacks=[enable])
    assert int(model.optimizer.iterations) == (6 if optimizer == "SGD" else 8)


@pytest.mark.filterwarnings("ignore:The optimizer of")
def test_the_first_adapter_of_a_model_that_trains():
    model = adapted("")
    compiled(model)
    before = numpy(model.get_layer("up").kernel)
    enable = Once("train_batch_end", lambda m: ksa.enable(m, LORA, targets="up", name="c"))
    fit(model, callbacks=[enable])
    assert len(model.trainable_weights) == 2
    assert np.abs(numpy(model.get_layer("up").kernel) - before).max() > 0


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "before"])
def test_a_model_of_which_nothing_trains(inside):
    model = adapted()
    compiled(model)
    rest = Once("train_batch_end", lambda m: ksa.set_adapter(m, None))
    if not inside:
        ksa.set_adapter(model, None)
    before = [numpy(w) for w in model.weights]
    with pytest.raises(ValueError, match="No adapter is active.*Received: a call of `fit`"):
        fit(model, callbacks=[rest] if inside else [])
    if not inside:
        for weight, value in zip(model.weights, before, strict=True):
            np.testing.assert_array_equal(numpy(weight), value)
    ksa.set_adapter(model, "a")
    fit(model)
