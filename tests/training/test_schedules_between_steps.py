"""A schedule in a callback of `fit`: the same as its act between two calls of `fit`."""

import keras
import numpy as np
import pytest
from cases import EVERY, numpy, shake
from fit_modes import MODES, compiled

import keras_svd_adapters as ksa
from keras_svd_adapters import methods

X, Y = (np.random.default_rng(i).normal(size=(16, 6)).astype("float32") for i in range(2))
BATCH, BEFORE = 2, 4  # a batch of eight, and the batches before the act

SCHEDULES = {
    "restart": (
        methods.RestartedLoRA(rank=1, restarts=1),
        lambda step: ksa.Restarts(every=step),
    ),
    "random kernels": (
        methods.RestartedLoRA(rank=1, restarts=1),
        lambda step: ksa.Restarts(every=step, share=0.5, seed=3),
    ),
    "ranks": (
        methods.AdaLoRA(rank=2),
        lambda step: ksa.AdaLoRASchedule(rank=1, begin=0, end=step, every=step),
    ),
    "values": (
        methods.RoseLoRA(rank=2),
        lambda step: ksa.RoseLoRASchedule(begin=0, end=step, every=step),
    ),
    "frozen arrays": (
        methods.AFLoRA(rank=2),
        lambda step: ksa.AFLoRASchedule(begin=0, end=step, every=step),
    ),
    "a share": (
        methods.SparseAdapter(rank=2),
        lambda step: ksa.SparseAdapterSchedule(step, "random"),
    ),
}
modes = [mode for mode in MODES if mode != "rules"]  # schedules bring theirs
if EVERY:
    CASES = [(name, mode) for name in SCHEDULES for mode in modes]
else:  # each schedule, and each mode
    CASES = [
        tuple(each[i % len(each)] for each in (list(SCHEDULES), modes))
        for i in range(max(len(SCHEDULES), len(modes)))
    ]


def adapted(method, dtype="float32"):
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((6,))
    for name in ("up", "mid"):
        x = keras.layers.Dense(6, activation="gelu", name=name, dtype=dtype)(x)
    model = keras.Model(inputs, x)
    ksa.enable(model, method, targets=["up", "mid"])
    shake(model, seed=3)
    return model


def fit(model, start=0, stop=8, *callbacks):
    rows = slice(start * BATCH, stop * BATCH)
    how = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    model.fit(X[rows], Y[rows], callbacks=list(callbacks), **how)


@pytest.mark.filterwarnings("ignore:.*trains without its")
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_as_between_two_fits(name, mode):
    method, make = SCHEDULES[name]
    settings = MODES[mode]
    step = BEFORE // settings.get("gradient_accumulation_steps", 1)
    dtype = settings.get("dtype", "float32")
    found, expected = adapted(method, dtype), adapted(method, dtype)
    rules = getattr(make(step), "rules", list)()
    compiled(found, **settings, rules=rules)
    fit(found, 0, 8, make(step))
    compiled(expected, **settings, rules=rules)
    schedule = make(step)
    if schedule.due(0):  # kernels are chosen before the first step
        expected.optimizer.build(expected.trainable_variables)
        act(schedule, expected, 0)
    fit(expected, 0, BEFORE)
    act(schedule, expected, step)
    fit(expected, BEFORE)
    for one, other in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), atol=2e-5, err_msg=one.path)
    assert int(found.optimizer.iterations) == int(expected.optimizer.iterations)


def act(schedule, model, step):
    """The schedule acts outside of `fit`, and does something."""
    before = [numpy(weight) for weight in model.weights]
    schedule.set_model(model)
    schedule.on_step(step)
    now = [numpy(weight) for weight in model.weights]
    assert any(np.any(one != other) for one, other in zip(before, now, strict=True))
