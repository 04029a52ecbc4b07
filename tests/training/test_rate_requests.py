"""Searches for a learning rate that cannot be: the error says what to type, the model stays."""

import keras
import numpy as np
import pytest
from rate_models import BATCH, compiled, data, everything

import keras_svd_adapters as ksa

SCHEDULE = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)


def frozen():
    model = compiled("plain")
    model.trainable = False
    return model


def adapted():
    model = compiled("plain")
    ksa.enable(model, ksa.SVF(), targets="all")
    return model


def with_optimizer(optimizer):
    model = compiled("plain")
    model.compile(optimizer, "mse")
    return model


def never_compiled():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])


def unbuilt():
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("adam", "mse")
    return model


class SilentModel(keras.Model):
    def train_step(self, *args):
        found = super().train_step(*args)
        if isinstance(found, tuple):  # JAX
            return {}, found[1]
        return {}


def without_loss():
    whole = compiled("plain")
    model = SilentModel(whole.inputs, whole.outputs)
    model.compile("adam", "mse")
    return model


class NoConfig(keras.optimizers.SGD):
    def get_config(self):
        raise NotImplementedError("none")


def not_finite():
    x, y = data()
    return x, np.where(np.arange(len(x))[:, None] == 5, np.nan, y)


def plain():
    return compiled("plain")


LISTED = {"methods": [ksa.SVF()], "targets": "all"}
WRONG = {
    "low above high": (plain, data, {"low": 1e-2, "high": 1e-3}, "low=0.01, high=0.001"),
    "low equals high": (plain, data, {"low": 1e-2, "high": 1e-2}, "smaller one first"),
    "low of 0": (plain, data, {"low": 0.0}, "positive"),
    "low is text": (plain, data, {"low": "1e-5"}, "low='1e-5'"),
    "high is infinite": (plain, data, {"high": float("inf")}, "high=inf"),
    "high is a truth value": (plain, data, {"high": True}, "high=True"),
    "few steps": (plain, data, {"steps": 9}, "at least 10.*steps=9"),
    "steps of a fraction": (plain, data, {"steps": 20.0}, "steps=20.0"),
    "empty batches": (plain, data, {"batch_size": 0}, "at least 1.*batch_size=0"),
    "verbose": (plain, data, {"verbose": 2}, "verbose=2"),
    "targets without methods": (plain, data, {"targets": "all"}, "arguments of `enable`"),
    "no methods": (plain, data, {"methods": []}, r"`methods` is a list.*\[\]"),
    "one method": (plain, data, {"methods": ksa.SVF()}, r"`methods` is a list.*SVF\(\)"),
    "methods are names": (plain, data, {"methods": ["svf"]}, "`methods` is a list"),
    "no method fits": (
        plain,
        data,
        {"methods": [ksa.LoRA(rank=99)], "targets": "all"},
        "rank",
    ),
    "no kernel": (plain, data, {"methods": [ksa.SVF()], "targets": "none"}, "none"),
    "adapted already": (adapted, data, LISTED, "leave `methods` out"),
    "not compiled": (never_compiled, data, {}, r"model\.compile\("),
    "not built": (unbuilt, data, {}, "built and compiled"),
    "a layer": (lambda: keras.layers.Dense(2), data, {}, "built and compiled"),
    "no optimizer": (lambda: with_optimizer(None), data, {}, "built and compiled"),
    "nothing trains": (frozen, data, {}, "No weight of the model trains.*set_adapter"),
    "a schedule": (
        lambda: with_optimizer(keras.optimizers.Adam(SCHEDULE)),
        data,
        {},
        "it is a schedule.*Adam.1e-3",
    ),
    "a function": (
        lambda: with_optimizer(keras.optimizers.Adam(lambda: 1e-3)),
        data,
        {},
        "a function",
    ),
    "a schedule in a scaler": (
        lambda: with_optimizer(
            keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(SCHEDULE))
        ),
        data,
        {},
        "it is a schedule",
    ),
    "no configuration": (lambda: with_optimizer(NoConfig(1e-3)), data, {}, "`get_config`"),
    "no configuration to compare": (
        lambda: with_optimizer(NoConfig(1e-3)),
        data,
        LISTED,
        "Without `methods`",
    ),
    "other lengths": (plain, lambda: (data()[0], data()[1][1:]), {}, r"samples \[47, 48\]"),
    "no samples": (plain, lambda: (data()[0][:0], data()[1][:0]), {}, r"samples \[0\]"),
    "an empty dataset": (plain, lambda: (iter([]),), {}, "no batch"),
    "a dataset and targets": (plain, lambda: (iter([data()]), data()[1]), {}, "leave out `y`"),
    "the loss is nan": (plain, not_finite, {}, "not finite before"),
    "the loss is nan for all": (plain, not_finite, LISTED, "not finite before"),
    "it never falls": (plain, lambda: (data()[0], data()[1] * 0), {"low": 10, "high": 20}, "fall"),
    "no loss": (without_loss, data, {}, "as `loss`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_error_says_what_to_type(case):
    make, inputs, how, message = WRONG[case]
    model, given = make(), inputs()
    is_whole = isinstance(model, keras.Model) and model.built and model.compiled
    is_whole = is_whole and model.optimizer is not None
    before = everything(model) if is_whole else None
    with pytest.raises(ValueError, match=f"(?s){message}.*") as raised:
        ksa.find_learning_rate(model, *given, **{"steps": 10, "batch_size": BATCH} | how)
    assert "Received: " in str(raised.value)
    if is_whole:
        assert everything(model) == before
        assert not model.optimizer.built
        assert model.optimizer.iterations.numpy() == 0


def test_a_request_is_checked_before_the_data_is_read():
    read = []

    def batches():
        read.append(1)
        yield data()

    for how in ({"low": 1.0}, {"steps": 1}, {"methods": 3}, {"verbose": 5}):
        with pytest.raises(ValueError, match="Received: "):
            ksa.find_learning_rate(compiled("plain"), batches(), **how)
    with pytest.raises(ValueError, match="trains"):
        ksa.find_learning_rate(frozen(), batches())
    assert not read
