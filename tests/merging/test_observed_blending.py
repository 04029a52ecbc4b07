"""RegMean and Fisher merging: means of adapters by what data says of each."""

import keras
import numpy as np
import pytest
from cases import shake
from two_adapters import deltas

import keras_svd_adapters as ksa
from keras_svd_adapters.merging.combining.observed_blending import fisher, regmean

RNG = np.random.default_rng(0)
CHANGES = [RNG.standard_normal((5, 3)) for _ in range(2)]
ROWS = [RNG.standard_normal((40, 5)) * scale for scale in (1.0, 3.0)]
MOMENTS = [x.T @ x / len(x) for x in ROWS]
WEIGHTS = [0.7, 0.3]
DATA = {name: RNG.standard_normal((24, 6)).astype("float32") for name in ("a", "b")}


def test_regmean_keeps_the_outputs_on_all_inputs():
    stacked = [np.sqrt(w / len(x)) * x for w, x in zip(WEIGHTS, ROWS, strict=True)]
    goal = np.concatenate([x @ D for x, D in zip(stacked, CHANGES, strict=True)])
    wanted = np.linalg.lstsq(np.concatenate(stacked), goal, rcond=None)[0]
    np.testing.assert_allclose(regmean(CHANGES, WEIGHTS, MOMENTS, 1.0), wanted, atol=1e-5)


def test_regmean_of_equal_inputs_of_one_adapter_and_without_inputs():
    mean = 0.7 * CHANGES[0] + 0.3 * CHANGES[1]
    np.testing.assert_allclose(regmean(CHANGES, WEIGHTS, MOMENTS[:1] * 2), mean, atol=1e-9)
    np.testing.assert_allclose(regmean(CHANGES[:1], [0.2], MOMENTS[:1]), CHANGES[0], atol=1e-9)
    one = np.zeros((5, 5))
    one[0, 0] = 4.0  # rank 1: nothing is known of the other inputs
    np.testing.assert_allclose(regmean(CHANGES, WEIGHTS, [one, one]), mean, atol=1e-6)


def test_fisher_weighs_each_entry():
    mean = 0.7 * CHANGES[0] + 0.3 * CHANGES[1]
    for same in (np.full((5, 3), 2.0), np.zeros((5, 3))):
        np.testing.assert_allclose(fisher(CHANGES, WEIGHTS, [same, same]), mean)
    first = np.arange(15).reshape(5, 3) % 2
    found = fisher(CHANGES, WEIGHTS, [first, 1 - first])
    np.testing.assert_allclose(found, np.where(first, *CHANGES), atol=1e-5)


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])
    model.compile(loss="mse")
    for seed, name in enumerate(("a", "b")):
        ksa.enable(model, ksa.LoRA(rank=2), name=name)
        shake(model, seed=seed)
    return model


def observed(model, what):
    found = {}
    for name, x in DATA.items():
        ksa.set_adapter(model, name)
        found[name] = ksa.observe(model, (x, np.ones((24, 2))), what)
    return found


@pytest.mark.parametrize(("how", "what"), [("regmean", "inputs"), ("fisher", "squared_gradients")])
def test_combine_by_what_was_observed(model, how, what):
    reports = observed(model, what)
    weights = {"a": 0.7, "b": 0.3}
    report = ksa.combine(model, weights, into="both", how=how, energy=1.0, observed=reports)
    assert report.error < 1e-5
    assert f"the blend of {how!r}" in str(report)
    blend = {"regmean": regmean, "fisher": fisher}[how]
    kernels = zip(deltas(model, "a"), deltas(model, "b"), deltas(model, "both"), strict=True)
    for path, (a, b, both) in zip(reports["a"], kernels, strict=True):
        read = [getattr(reports[name][path], what) for name in ("a", "b")]
        statistics = [each.second if how == "regmean" else each for each in read]
        wanted = blend([a, b], [0.7, 0.3], statistics)
        np.testing.assert_allclose(both, wanted, atol=1e-5)
        assert np.abs(both - 0.7 * a - 0.3 * b).max() > 1e-3


REFUSED = {
    "nothing observed": ({"how": "regmean"}, "needs what `observe` finds"),
    "one adapter alone": ({"how": "fisher", "observed": {"a": {}}}, "as in `observed="),
    "another statistic": ({"how": "fisher", "observed": "inputs"}, "squared_gradients"),
    "no effect": ({"how": "svd", "observed": "inputs"}, "has an effect only with"),
    "a negative weight": (
        {"how": "regmean", "observed": "inputs", "weights": {"a": 1.0, "b": -1.0}},
        "weights are positive",
    ),
}


@pytest.mark.parametrize(("changed", "match"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(model, changed, match):
    if changed.get("observed") == "inputs":
        changed = changed | {"observed": observed(model, "inputs")}
    request = {"weights": {"a": 0.5, "b": 0.5}, "into": "both"} | changed
    with pytest.raises(ValueError, match=rf"(?s){match}.*Received: "):
        ksa.combine(model, **request)


def test_adapters_with_weights_are_not_observed(model):
    ksa.set_adapter(model, {"a": 0.5, "b": 0.5})
    with pytest.raises(ValueError, match=r"follows one adapter.*Received: a, b"):
        ksa.observe(model, DATA["a"])
