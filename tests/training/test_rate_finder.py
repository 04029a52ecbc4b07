"""The search for a learning rate: what it finds, and that it leaves no trace."""

import random

import keras
import numpy as np
import pytest
from rate_models import BATCH, MODELS, SAMPLES, compiled, data, everything, forms_of_data, values

import keras_svd_adapters as ksa

METHODS = {
    "lora": ksa.LoRA(rank=2, dropout=0.2),
    "svf": ksa.SVF(),
    "svft": ksa.SVFT(pattern="banded", d=1),
    "pissa": ksa.PiSSA(rank=2),
}


def find(model, **how):
    how = {"steps": 12, "batch_size": BATCH, "high": 1.0} | how
    return ksa.find_learning_rate(model, *data(), **how)


def fit(model, epochs=2):
    history = model.fit(*data(), batch_size=BATCH, epochs=epochs, verbose=0)
    return {name: np.array(values).tobytes() for name, values in history.history.items()}


ROWS = [("dropout and statistics", "built"), ("float16", "trained"), ("average", "trained")]


@pytest.mark.parametrize(("name", "before"), [*((name, "unbuilt") for name in MODELS), *ROWS])
def test_training_goes_on_as_without_it(name, before):
    runs = []
    for searches in (False, True):
        model = compiled(name)
        if before == "built":
            model.optimizer.build(model.trainable_variables)
        if before == "trained":
            fit(model, 1)
        if searches:
            at_first, optimizer = everything(model), model.optimizer
            found = find(model)
            assert found.losses[-1] != found.losses[0]
            assert everything(model) == at_first
            assert model.optimizer is optimizer
            assert optimizer.built == (before != "unbuilt")
        runs.append((fit(model), values(model)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("method", METHODS)
def test_an_adapted_model_trains_as_without_it(method):
    runs = []
    for searches in (False, True):
        model = compiled("dropout and statistics")
        ksa.enable(model, METHODS[method], train="head", targets="all")
        if searches:
            find(model)
        runs.append((fit(model), values(model)))
    assert runs[0] == runs[1]


def test_the_random_state_of_the_process():
    drawn = []
    for searches in (False, True):
        keras.utils.set_random_seed(3)
        model = compiled("dropout and statistics")
        if searches:
            find(model, methods=[ksa.LoRA(rank=2)], targets="all")
            find(model)
        drawn.append((random.random(), np.random.rand(), float(keras.random.uniform(()))))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("trained_before", [0, 1])
def test_methods_are_compared_on_a_model_without_adapters(trained_before):
    runs = []
    for searches in (False, True):
        model = compiled("dropout and statistics")
        model.layers[0].trainable = False
        if trained_before:
            fit(model, trained_before)
        if searches:
            before, optimizer = everything(model), model.optimizer
            classes = [type(layer) for layer in model.layers]
            methods = [*METHODS.values(), ksa.LoRA(rank=99)]
            found = find(model, methods=methods, targets="all", train="*bias")
            assert everything(model) == before
            assert model.optimizer is optimizer
            assert [type(layer) for layer in model.layers] == classes
            assert {*found.curves} == {*METHODS.values()}
            assert "rank" in found.refused[ksa.LoRA(rank=99)]
            lowest = [curve.smoothed.min() for curve in found.curves.values()]
            assert lowest == sorted(lowest)
            assert found.suggestion == found.curves[found.best].suggestion
            assert all(str(method) in str(found) for method in methods)
        runs.append((fit(model), values(model)))
    assert runs[0] == runs[1]


def test_a_method_alone_and_among_others_is_the_same():
    model = compiled("dropout and statistics")
    alone = find(model, methods=[ksa.SVF()], targets="all").curves[ksa.SVF()]
    among = find(model, methods=[ksa.LoRA(rank=1), ksa.SVF()], targets="all").curves[ksa.SVF()]
    np.testing.assert_array_equal(alone.losses, among.losses)


@pytest.mark.parametrize(
    ("error", "steps", "compares", "trained_before"),
    [
        (KeyboardInterrupt, 1, False, 0),
        (RuntimeError, 17, False, 1),
        (RuntimeError, 1, True, 1),
        (KeyboardInterrupt, 17, True, 0),
    ],
)
def test_an_interruption_restores_everything(monkeypatch, error, steps, compares, trained_before):
    how = {"methods": [ksa.SVF()], "targets": "all"} if compares else {}
    model = compiled("dropout and statistics")
    if trained_before:
        fit(model, trained_before)
    before, optimizer = everything(model), model.optimizer
    original, calls = keras.Model.train_on_batch, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        logs = original(self, *args, **kwargs)
        if len(calls) == steps:
            raise error("stop")
        return logs

    monkeypatch.setattr(keras.Model, "train_on_batch", interrupted)
    with pytest.raises(error, match="stop"):
        find(model, **how)
    assert everything(model) == before
    assert model.optimizer is optimizer
    with pytest.raises(ValueError, match="no adapter"):
        ksa.set_adapter(model, "default")
    monkeypatch.undo()
    fit(model)


def test_a_step_that_fails_on_the_way(monkeypatch):
    """JAX has taken the values out of the variables by then."""
    model = compiled("dropout and statistics")
    fit(model, 1)
    before, step, calls = everything(model), model.train_function, []

    def interrupted(*args):
        calls.append(1)
        found = step(*args)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return found

    model.train_function = interrupted
    with pytest.raises(KeyboardInterrupt):
        find(model)
    assert everything(model) == before
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    assert everything(model) == before


@pytest.mark.parametrize("form", forms_of_data())
def test_every_form_of_data(form):
    model = compiled("plain")
    found = ksa.find_learning_rate(model, *forms_of_data()[form](), steps=15, batch_size=BATCH)
    assert len(found.rates) == 15
    assert found.smoothed[-1] < found.smoothed[0]


def test_batches_are_repeated_if_there_are_few():
    model, (x, y) = compiled("plain"), data()
    once = ksa.find_learning_rate(model, iter([(x, y)]), steps=10)
    arrays = ksa.find_learning_rate(model, x, y, steps=10, batch_size=SAMPLES)
    np.testing.assert_allclose(once.losses, arrays.losses, rtol=1e-3)


def test_one_function_is_traced_for_all_rates():
    traces = []

    class Traced(keras.Model):
        def call(self, x):
            traces.append(1)
            return self.layers[0](x)

    model = Traced()
    model.dense = keras.layers.Dense(2)
    model(data()[0])
    model.compile("adam", "mse", run_eagerly=False)
    counts = []
    for steps in (10, 30):
        traces.clear()
        find(model, steps=steps)
        counts.append(len(traces))
    if keras.backend.backend() != "torch":  # which computes each step
        assert counts[0] == counts[1]
    else:
        assert counts[1] - counts[0] == 2 * 20


def quadratic(curvature):
    """One weight, whose loss is `curvature * w ** 2`: SGD diverges above `1 / curvature`."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[3.0]])
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    x = np.full((8, 1), np.sqrt(curvature), "float32")
    return model, x, np.zeros((8, 1), "float32")


@pytest.mark.parametrize("curvature", [1e-2, 1.0, 1e2])
def test_the_suggestion_follows_the_curvature(curvature):
    """Rates scale as the inverse of the curvature, and so does the suggestion; it converges."""
    model, x, y = quadratic(curvature)
    low, high = 1e-4 / curvature, 1e2 / curvature
    found = ksa.find_learning_rate(model, x, y, low=low, high=high, steps=80)
    assert 0.02 < found.suggestion * curvature < 1.0
    assert len(found.rates) < 80, "it went on after the loss had exploded"
    assert not found.curves[None].still_falls
    model.optimizer.learning_rate = found.suggestion
    model.fit(x, y, epochs=100, verbose=0)
    assert abs(float(model.layers[0].kernel.numpy()[0, 0])) < 0.3


def test_a_loss_that_becomes_nan_ends_the_search():
    class Breaks(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.where(y_pred < 2.0, np.nan, y_pred**2)

    model, x, y = quadratic(1.0)
    model.compile(keras.optimizers.SGD(1e-3), Breaks())
    found = ksa.find_learning_rate(model, x, y, low=1e-4, high=10, steps=40)
    assert len(found.rates) < 40
    assert np.isfinite(found.losses).all()


def test_the_result_prints_and_draws():
    model = compiled("plain")
    found = find(model)
    assert f"model.optimizer.learning_rate = {found.suggestion:.1e}" in str(found)
    assert "suggestion" in str(found)
    assert "<table>" in found._repr_html_()
    (axis,) = found.plot().axes
    assert axis.get_xscale() == "log"
    dot = axis.lines[-1]
    assert dot.get_xdata()[0] == found.suggestion
    both = find(model, methods=[ksa.SVF(), ksa.LoRA(rank=1)], targets="all")
    texts = [text.get_text() for text in both.plot().axes[0].get_legend().get_texts()]
    assert texts == [f"{method}: {c.suggestion:.1e}" for method, c in both.curves.items()]
    assert f"enable {both.best}" in str(both)
