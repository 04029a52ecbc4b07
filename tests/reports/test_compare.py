"""`compare`: plans of several methods, those within a budget first."""

import keras
import models
import pytest

import keras_svd_adapters as ksa
from keras_svd_adapters.reports import step_time

pytestmark = pytest.mark.backend_free("plans are counted on the host")
METHODS = [ksa.LoRA(rank=2), ksa.SVF(), ksa.SVFT(pattern="banded", d=2), ksa.LoRAXS(rank=4)]


@pytest.mark.parametrize("of", ["values", "file_bytes", "frozen_bytes", "seconds"])
def test_what_fits_comes_first_and_trains_most(of):
    backbone, _ = models.bert()
    before = [w.path for w in backbone.weights]
    plans = {method: ksa.plan(backbone, method) for method in METHODS}
    names = {"values": "trainable_parameters"}
    costs = {m: getattr(p, names.get(of, of)) for m, p in plans.items()}
    budget = sorted(costs.values())[1]
    found = ksa.compare(backbone, METHODS, budget, of)
    listed = list(found.plans)
    assert set(listed) == set(METHODS)
    fit = [found.fits(method) for method in listed]
    assert fit == sorted(fit, reverse=True)
    assert fit == [costs[method] <= budget for method in listed]
    for inside in (True, False):
        group = [m for m in listed if found.fits(m) is inside]
        values = [plans[m].trainable_parameters for m in group]
        assert values == sorted(values, reverse=True)
    assert found.best == listed[0]
    assert str(found).count("yes") == sum(fit)
    assert [w.path for w in backbone.weights] == before


def test_without_a_budget_and_with_one_that_nothing_meets():
    backbone, _ = models.bert()
    found = ksa.compare(backbone, METHODS, train="*layer_norm*")
    assert found.best == max(METHODS, key=lambda m: ksa.plan(backbone, m).trainable_parameters)
    assert "yes" not in str(found)
    assert ksa.compare(backbone, METHODS, budget=1).best is None


def test_a_method_that_does_not_suit_is_told():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    found = ksa.compare(model, [ksa.LoRA(rank=99), ksa.SVF()])
    assert list(found.plans) == [ksa.SVF()]
    assert "rank" in found.refused[ksa.LoRA(rank=99)]
    assert "LoRA(rank=99): " in str(found)


def test_milliseconds(monkeypatch):
    """Each kernel counts, each shape is measured once, and the cheapest alone fits."""
    model = keras.Sequential([keras.Input((64,)), *map(keras.layers.Dense, (64, 64, 96, 2))])
    measured = []

    def seconds(method, m, n, dtype, tokens):
        measured.append((method, m, n, tokens))
        return method.trainable_count(m, n)

    monkeypatch.setattr(step_time, "_added", seconds)
    found = ksa.compare(model, METHODS[:3], budget=200, of="milliseconds", tokens=8)
    expected = {method: ksa.plan(model, method).trainable_parameters for method in METHODS[:3]}
    assert found.milliseconds == expected
    assert len(measured) == len(set(measured)) == 6
    assert found.best == ksa.SVF()
    assert "192.00 ms" in str(found)


def test_a_step_is_longer_with_an_adapter():
    model = keras.Sequential([keras.Input((256,)), keras.layers.Dense(256), keras.layers.Dense(2)])
    before = [weight.numpy().tobytes() for weight in model.weights]
    found = ksa.compare(model, [ksa.LoRA(rank=64)], of="milliseconds", tokens=2048)
    assert 0 < found.milliseconds[ksa.LoRA(rank=64)] < 10_000
    assert [weight.numpy().tobytes() for weight in model.weights] == before


WRONG = {
    "`of` is one of": {"of": "euros"},
    "is a list such as": {"methods": []},
    "is a list such": {"methods": ["lora"]},
    "is a number of tokens": {"tokens": 0},
    "rank": {"methods": [ksa.LoRA(rank=99)]},
}


@pytest.mark.parametrize(("words", "how"), WRONG.items(), ids=WRONG)
def test_what_is_refused(words, how):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=rf"(?s){words}.*Received: "):
        ksa.compare(**{"model": model, "methods": METHODS, **how})
