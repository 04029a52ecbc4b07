"""What else knows the rules of an optimizer: errors before the first step, verbs, searches."""

import warnings

import keras
import numpy as np
import pytest
from cases import numpy
from numpy_training import X, Y, adapted, arrays_of, fit

import keras_svd_adapters as ksa

LORA = ksa.LoRA(rank=2)
PLUS = [ksa.Rates({"*/lora_b": 4.0}), ksa.Sensitivity()]
Adam = keras.optimizers.Adam


def built():
    optimizer = Adam(1e-3)
    optimizer.build([keras.Variable(np.zeros(2))])
    return optimizer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ksa.rules("adam", PLUS), "must be a Keras optimizer.*Received: optimizer='adam'"),
        (lambda: ksa.rules(Adam(), []), r"must be a list of rules.*Received: rules=\[\]"),
        (lambda: ksa.rules(Adam(), PLUS[0]), "must be a list of rules.*Received: rules=Rates"),
        (lambda: ksa.rules(ksa.rules(Adam(), PLUS), PLUS), "has rules already.*Received"),
        (
            lambda: ksa.rules(keras.optimizers.LossScaleOptimizer(ksa.rules(Adam(), PLUS)), PLUS),
            "has rules already",
        ),
        (
            lambda: ksa.rules(keras.optimizers.LossScaleOptimizer(Adam()), PLUS),
            "without the loss scale",
        ),
        (lambda: ksa.rules(built(), PLUS), "was built before"),
        (lambda: ksa.Rates({}), "dictionary of positive numbers.*Received: ratios={}"),
        (lambda: ksa.Rates({"*": 0.0}), "dictionary of positive numbers"),
        (lambda: ksa.Rates({"*": -1}), "dictionary of positive numbers"),
        (lambda: ksa.Rates({"*": float("nan")}), "dictionary of positive numbers"),
        (lambda: ksa.Rates([("*", 1.0)]), "dictionary of positive numbers"),
        (lambda: ksa.Proximal({"*": 0.0}), "dictionary of positive numbers"),
        (lambda: ksa.Proximal({"*": "1"}), "dictionary of positive numbers"),
        (lambda: ksa.Sensitivity(decay=None), "must be in .0, 1.*Received: decay=None"),
        (lambda: ksa.RankNorms(decay=1.0), "must be in .0, 1.*Received: decay=1.0"),
        (lambda: ksa.Flora(beta_1=1.0), "must be in .0, 1.*Received: beta_1=1.0"),
        (lambda: ksa.Restarts(every=2, seed=-1), "not be negative.*Received: seed=-1"),
        (lambda: ksa.Sensitivity(decay=1.0), "must be in .0, 1.*Received: decay=1.0"),
        (lambda: ksa.Sensitivity(uncertainty=-0.1), "must be in .0, 1"),
        (lambda: ksa.KeepZeros([]), r"must be a pattern.*Received: patterns=\[\]"),
        (lambda: ksa.Alternate(steps=0), "positive integer.*Received: steps=0"),
        (lambda: ksa.Alternate(steps=(1, 2, 3)), "positive integer"),
    ],
)
def test_requests_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*/lora_bb", r"matches no array that trains.*'\*/lora_b'.*Received: Rates"),
        ("lora_b", r"The nearest ones: '\*/lora_b'"),
        ("*up/kernel", "matches only arrays that do not train, such as '.*up/kernel'"),
        ("*adapter_other/lora_b", "do not train.*activate their adapter"),
    ],
)
def test_patterns_that_match_nothing(pattern, message):
    model = adapted(LORA, "sgd")
    ksa.enable(model, LORA, targets="up", name="other")
    ksa.set_adapter(model, "default")
    model.compile(ksa.rules(Adam(), [ksa.Rates({pattern: 2.0})]), "mse")
    before = [numpy(w) for w in model.weights]
    with pytest.raises(ValueError, match=message):
        fit(model, 1)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)


@pytest.mark.filterwarnings("ignore:The optimizer of")
def test_verbs_keep_the_statistics():
    model = adapted(LORA, ksa.rules(Adam(1e-2), PLUS))
    fit(model, 3)
    optimizer, adapter = model.optimizer, model.get_layer("up").adapter()
    kept = numpy(optimizer.statistic(adapter.lora_a, "sensitivity"))
    slots = len(optimizer.variables)
    assert kept.max() > 0
    ksa.enable(model, ksa.SVF(), targets="up", name="other")  # no pattern matches
    fit(model, 1)
    assert len(model.optimizer.variables) < slots
    ksa.set_adapter(model, "default")
    assert len(model.optimizer.variables) == slots
    fit(model, 1)


@pytest.mark.filterwarnings("ignore:The optimizer of")
def test_another_layer_begins_to_train():
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(6, name="up")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5, name="head")(hidden))
    ksa.enable(model, LORA, targets="up")
    model.compile(ksa.rules(Adam(1e-2), PLUS), "mse")
    fit(model, 3)
    before = model.optimizer
    a = model.get_layer("up").adapter().lora_a
    ksa.enable(model, LORA, targets="head", name="other")
    now = model.optimizer
    assert now is not before
    np.testing.assert_array_equal(
        numpy(now.statistic(a, "sensitivity")), numpy(before.statistic(a, "sensitivity"))
    )
    assert int(keras.ops.convert_to_numpy(now.iterations)) == 3
    assert len(now.variables) > len(before.variables)
    fit(model, 2)


def test_a_search_for_a_rate_leaves_no_trace():
    model = adapted(LORA, ksa.rules(Adam(1e-3), PLUS))
    fit(model, 2)
    everything = [*model.weights, *model.optimizer.variables]
    before = [numpy(v) for v in everything]
    rates = ksa.find_learning_rate(model, X, Y, steps=20, batch_size=8, verbose=0)
    assert 1e-5 < rates.suggestion < 1e-1
    for variable, value in zip(everything, before, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)
    model.optimizer.learning_rate = 0.5
    assert float(keras.ops.convert_to_numpy(model.optimizer.inner_optimizer.learning_rate)) == 0.5


@pytest.mark.parametrize(
    ("rate", "ratios", "message"),
    [
        (1e-5, {"*": 1.0}, "rate of 1.0e-05.*barely changes"),
        (1e-5, {"*/lora_b": 16.0}, None),
        (1e-1, {"*": 1.0}, "rate of 1.0e-01.*diverge"),
        (1e-3, {"*": 50.0}, "rate of 5.0e-02.*diverge"),
        (1e-3, {"*/lora_b": 50.0}, None),
    ],
)
def test_the_warning_of_rates_knows_the_ratios(rate, ratios, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = adapted(LORA, ksa.rules(Adam(rate), [ksa.Rates(ratios)]))
        model.optimizer.build(model.trainable_variables)
    texts = [str(w.message) for w in caught if "learning rate" in str(w.message)]
    if message is None:
        assert not texts
    else:
        with pytest.warns(UserWarning, match=message):
            warnings.warn(*texts, stacklevel=1)


def test_the_health_of_arrays_that_rest():
    health = ksa.AdapterHealth(steps=3)
    rest = ksa.Alternate("*/lora_b", "*/lora_a", steps=(8, 8))
    model = adapted(LORA, ksa.rules(Adam(1e-3), [rest]))
    before = arrays_of(model)["lora_a"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*have not moved")
        fit(model, 5, health)
    np.testing.assert_array_equal(arrays_of(model)["lora_a"], before)
    with pytest.warns(UserWarning, match="have not moved"):
        fit(adapted(LORA, ksa.rules(keras.optimizers.SGD(1e-30), PLUS)), 5, health)


def test_in_mixed_precision():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, name="up", dtype="mixed_float16")]
    )
    ksa.enable(model, LORA, targets="up")
    optimizer = ksa.rules(Adam(1e-3), PLUS)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0), "mse")
    fit(model, 3)
    _, b = model.trainable_weights
    assert 0 < numpy(optimizer.statistic(b, "sensitivity")).max() < 1  # without the loss scale
    assert np.abs(numpy(b)).max() > 8e-3  # three steps of four times the rate


def test_a_rule_of_your_own_needs_no_configuration_for_another_adapter():
    class Slower(ksa.Rule):
        def __init__(self, factor):
            super().__init__("*/lora_b")
            self.factor = factor

        def ratio(self, path):
            return self.factor

    model = adapted(LORA, ksa.rules(Adam(1e-3), [Slower(0.5)]))
    fit(model, 1)
    ksa.enable(model, LORA, targets="up", name="second")
    fit(model, 1)
    assert [type(rule) for rule in model.optimizer.rules] == [Slower]
    assert model.optimizer.rules[0].factor == 0.5


def test_exclusions_from_weight_decay_reach_the_optimizer():
    found = []
    for names in ([], ["lora"]):
        optimizer = ksa.rules(keras.optimizers.AdamW(1e-2, weight_decay=0.5), [ksa.Sensitivity()])
        optimizer.exclude_from_weight_decay(var_names=names)
        model = adapted(LORA, optimizer)
        model.compile(optimizer, lambda y, predicted: 0 * keras.ops.mean(predicted, axis=-1))
        before = arrays_of(model)["lora_b"]
        fit(model, 1)
        found.append(np.abs(arrays_of(model)["lora_b"] - before).max())
    assert found[0] > 0
    assert found[1] == 0
