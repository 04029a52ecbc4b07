"""`compare`: plans of several methods, those within a budget first."""

import keras
import models
import pytest

import keras_svd_adapters as ksa

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


WRONG = {
    "`of` is one of": {"of": "euros"},
    "is a list such as": {"methods": []},
    "is a list such": {"methods": ["lora"]},
    "rank": {"methods": [ksa.LoRA(rank=99)]},
}


@pytest.mark.parametrize(("words", "how"), WRONG.items(), ids=WRONG)
def test_what_is_refused(words, how):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=rf"(?s){words}.*Received: "):
        ksa.compare(**{"model": model, "methods": METHODS, **how})
