"""Rules that an optimizer follows in each step."""

import keras
import numpy as np
import pytest
from cases import numpy
from numpy_training import SGD, Adam, adapted, arrays_of, fit, lora_gradients

import keras_svd_adapters as ksa

LORA = ksa.LoRA(rank=2)
STEPS = 10


def same(model, other, wrapped=False):
    """Every weight and every optimizer variable, bit for bit."""
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs), err_msg=ours.path)
    ours, theirs = model.optimizer, other.optimizer
    if wrapped:
        ours, theirs = (getattr(x, "inner_optimizer", x) for x in (ours, theirs))
        count = len(theirs.variables) if not theirs.use_ema else 2
        ours, theirs = ours.variables[:count], theirs.variables[:count]
    else:
        ours, theirs = ours.variables, theirs.variables
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b), err_msg=a.path)


KINDS = ["SGD", "Adam", "AdamW", "Adafactor", "Lion", "RMSprop", "Nadam", "Adagrad"]
SETTINGS = {
    "accumulation": {"gradient_accumulation_steps": 3},
    "global clipnorm": {"global_clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.1},
    "decay": {"weight_decay": 0.1},
    "ema": {"use_ema": True, "ema_momentum": 0.8},
    "ema overwrites": {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3},
    "loss scale factor": {"loss_scale_factor": 8.0},
    "schedule": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(1e-2, 2, 0.5)},
}
CASES = [(kind, {}) for kind in KINDS] + [("Adam", settings) for settings in SETTINGS.values()]


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=[*KINDS, *SETTINGS])
def test_a_ratio_of_one_is_the_plain_optimizer(kind, settings):
    def optimizer():
        return getattr(keras.optimizers, kind)(**{"learning_rate": 1e-2, **settings})

    plain = adapted(LORA, optimizer())
    fit(plain, 7)
    for rule in (ksa.Rates({"*/lora_b": 1.0}), ksa.Sensitivity()):
        model = adapted(LORA, ksa.rules(optimizer(), [rule]))
        fit(model, 7)
        same(model, plain, wrapped=True)


def test_the_plain_optimizer_under_a_loss_scale():
    runs = []
    for wrap in (lambda x: x, lambda x: ksa.rules(x, [ksa.Rates({"*": 1.0})])):
        inner = wrap(keras.optimizers.Adam(1e-2))
        model = adapted(LORA, keras.optimizers.LossScaleOptimizer(inner, initial_scale=16.0))
        fit(model, 7)
        runs.append(model)
    for one, other in zip(*(model.weights for model in runs), strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(other))
    assert int(keras.ops.convert_to_numpy(runs[1].optimizer.iterations)) == 7


@pytest.mark.parametrize("how", ["plain", "accumulation", "loss scale"])
def test_lora_plus(how):
    """One step of Adam moves B 16 times as far, and A as before."""
    settings = {"gradient_accumulation_steps": 2} if how == "accumulation" else {}
    moves = []
    for ratio in (1.0, 16.0):
        optimizer = ksa.rules(
            keras.optimizers.Adam(1e-3, **settings), [ksa.Rates({"*/lora_b": ratio})]
        )
        if how == "loss scale":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0)
        model = adapted(LORA, optimizer)
        before = arrays_of(model)
        fit(model, 2 if how == "accumulation" else 1)
        after = arrays_of(model)
        moves.append({name: after[name] - before[name] for name in after})
    np.testing.assert_array_equal(moves[1]["lora_a"], moves[0]["lora_a"])
    np.testing.assert_allclose(moves[1]["lora_b"], 16 * moves[0]["lora_b"], atol=1e-6)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_ten_steps_of_each_rule(kind):
    """Rates, sensitivity, soft thresholding and zeros that stay, against float64."""
    rate = 1e-3 if kind is SGD else 1e-2
    rules = [
        ksa.Sensitivity(decay=0.8, uncertainty=0.6),
        ksa.Rates({"*/lora_b": 4.0}),
        ksa.Proximal({"*/lora_a": 0.5}),
        ksa.KeepZeros("*/lora_a"),
    ]
    model = adapted(LORA, ksa.rules(getattr(keras.optimizers, kind.__name__)(rate), rules))
    a = model.get_layer("up").adapter().lora_a
    a.assign(np.where(np.arange(12).reshape(6, 2) % 3 == 0, 0, numpy(a)))
    v, step = arrays_of(model), kind(rate)
    S, U = ({name: np.zeros_like(value) for name, value in v.items()} for _ in range(2))
    for _ in range(STEPS):
        gradients = lora_gradients(model, v)
        for name, g in gradients.items():
            now = np.abs(v[name] * g)
            S[name] = 0.8 * S[name] + 0.2 * now
            U[name] = 0.6 * U[name] + 0.4 * np.abs(now - S[name])
            new = step(name, v[name], g)
            if name == "lora_b":
                v[name] = v[name] + 4 * (new - v[name])
            else:
                new = np.sign(new) * np.maximum(np.abs(new) - 0.5 * rate, 0)
                v[name] = np.where(v[name] == 0, 0, new)
    fit(model, STEPS)
    found = arrays_of(model)
    for name, value in v.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
        variable = model.get_layer("up").adapter().arrays[name]
        for kept, expected in (("sensitivity", S), ("uncertainty", U)):
            statistic = numpy(model.optimizer.statistic(variable, kept))
            np.testing.assert_allclose(statistic, expected[name], rtol=2e-3, atol=1e-5)
    assert (found["lora_a"] == 0).sum() >= 4


def test_statistics_of_gathered_gradients():
    """Two batches an update: the mean of both gradients counts, once."""
    found = []
    for every, batch in ((1, 8), (2, 4)):
        inner = keras.optimizers.SGD(1e-3, gradient_accumulation_steps=every if every > 1 else None)
        model = adapted(
            LORA, ksa.rules(inner, [ksa.Sensitivity(), ksa.Proximal({"*/lora_b": 1.0})])
        )
        fit(model, 5, batch_size=batch)
        adapter = model.get_layer("up").adapter()
        found.append(
            [model.optimizer.statistic(adapter.lora_a, "sensitivity"), *adapter.arrays.values()]
        )
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_two_groups_in_turn(kind):
    """Each group trains as with an optimizer of its own, whose moments see its own steps alone."""
    rate = 1e-3 if kind is SGD else 1e-2
    alternate = ksa.Alternate("*/lora_b", "*/lora_a", steps=(1, 2))
    inner = getattr(keras.optimizers, kind.__name__)(rate)
    model = adapted(LORA, ksa.rules(inner, [alternate]))
    v, step = arrays_of(model), kind(rate)
    for t in range(STEPS):
        name = "lora_b" if t % 3 < 1 else "lora_a"
        if kind is Adam:
            step.count = dict.fromkeys(v, t)  # all steps count
        v[name] = step(name, v[name], lora_gradients(model, v)[name])
    fit(model, STEPS)
    for name, value in v.items():
        np.testing.assert_allclose(arrays_of(model)[name], value, atol=1e-5, err_msg=name)


@keras.saving.register_keras_serializable("tests")
class OnlyNegative(ksa.Rule):
    """A rule of a user: changes gradients."""

    def change_gradient(self, gradient, array):
        return keras.ops.minimum(gradient, 0.0)


def test_a_rule_of_a_user():
    model = adapted(LORA, ksa.rules(keras.optimizers.SGD(1e-3), [OnlyNegative("*/lora_*")]))
    before = arrays_of(model)
    gradients = lora_gradients(model, before)
    fit(model, 1)
    for name, value in arrays_of(model).items():
        expected = before[name] - 1e-3 * np.minimum(gradients[name], 0)
        np.testing.assert_allclose(value, expected, atol=1e-6)


RULES = [ksa.Sensitivity(uncertainty=0.5), ksa.Rates({"*/lora_b": 3.0}), ksa.Alternate("*b", "*a")]


@pytest.mark.parametrize("scaled", [False, True])
def test_saved_and_continued(scaled, tmp_path):
    def compiled():
        inner = keras.optimizers.AdamW(1e-2, use_ema=True, ema_overwrite_frequency=4, name="adamw")
        optimizer = ksa.rules(inner, RULES)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 16.0, name="scale")
        model = adapted(LORA, optimizer)
        model.compile(optimizer, "mse")
        return model

    straight, model = compiled(), compiled()
    fit(straight, 9)
    fit(model, 5, keras.callbacks.ModelCheckpoint(tmp_path / "m.keras"))
    again = keras.saving.load_model(tmp_path / "m.keras")
    fit(again, 9, first=5)
    # the end of the first `fit` puts averages into the weights, in memory alone
    same(again, straight)
