"""The curves of searches for a learning rate: from which data, how steep, how far, how shown."""

import keras
import numpy as np
import pytest
from rate_models import BATCH, SAMPLES, compiled, data, find, forms_of_data

import keras_svd_adapters as ksa


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
