"""Calibration leaves no trace, and data that does not suit is refused."""

import keras
import numpy as np
import pytest
import rate_models
from calibration import COMPONENTS, GRADIENT, INPUTS, found
from cases import numpy
from snapshots import refused, snapshot

import keras_svd_adapters as ksa
from keras_svd_adapters.methods.statistics import Statistics
from keras_svd_adapters.models.observation import statistics as observing
from keras_svd_adapters.models.observation.forward import ForwardPass

X, Y = rate_models.data()


@pytest.mark.parametrize("method", [INPUTS, COMPONENTS, GRADIENT], ids=["corda", "eva", "ga"])
@pytest.mark.parametrize("is_trained", [False, True])
def test_it_leaves_no_trace(method, is_trained):
    model = rate_models.compiled("dropout and statistics")
    if is_trained:
        model.fit(X, Y, verbose=0)
    before, bits = snapshot(model), rate_models.everything(model)
    found(model, method, (X, Y), "second")
    assert snapshot(model) == before
    assert rate_models.everything(model) == bits
    model.fit(X, Y, verbose=0)


def test_progress(capsys):
    model = rate_models.compiled("plain")
    ksa.enable(model, INPUTS, targets="second", calibrate=(X, Y), verbose=1)
    assert "1/2 batches, 50%, data" in capsys.readouterr().out


def in_turns(monkeypatch):
    """Kernels whose statistics are large take turns; return the list of the turns."""
    turns, observe = [], observing.Observed.observe
    monkeypatch.setattr(observing, "SHARE", 0)
    monkeypatch.setattr(
        observing.Observed, "observe", lambda self: turns.append(len(self)) or observe(self)
    )
    return turns


@pytest.mark.parametrize("method", [INPUTS, GRADIENT, COMPONENTS], ids=["corda", "ga", "eva"])
def test_kernels_take_turns(method, monkeypatch):
    def values():
        model = rate_models.compiled("plain")
        data = iter([(X[:20], Y[:20]), (X[20:], Y[20:])])
        ksa.enable(model, method, targets="all", calibrate=data)
        return [numpy(weight) for weight in model.weights]

    expected, turns = values(), in_turns(monkeypatch)
    for found_value, value in zip(values(), expected, strict=True):
        np.testing.assert_array_equal(found_value, value)
    assert len(turns) == (1 if method is COMPONENTS else 2)  # of two kernels
    assert not any(turns)  # what a turn found is used before the next


def test_an_error_of_a_later_turn(monkeypatch):
    in_turns(monkeypatch)
    model = rate_models.compiled("plain")
    statistics = ForwardPass.statistics
    monkeypatch.setattr(
        ForwardPass,
        "statistics",
        lambda self, need, site: statistics(self, need, site) if site.name == "first" else 1 / 0,
    )
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError):
        ksa.enable(model, INPUTS, targets="all", calibrate=X)
    assert snapshot(model) == before


REFUSED = {
    "no data": (INPUTS, None, "calibrate=x`"),
    "no data for gradients": (GRADIENT, None, r"calibrate=\(x, y\)`"),
    "no need": (ksa.SVF(), X, "leave `calibrate` out"),
    "no samples": (INPUTS, X[:0], "same number of samples"),
    "unlike numbers": (INPUTS, (X, Y[:3]), "same number of samples"),
    "no batches": (INPUTS, iter([]), "make a new one"),
    "a tuple of four": (INPUTS, (X, X, X, X), r"or a tuple `\(x, y\)`"),
    "no targets": (GRADIENT, X, "needs targets"),
    "too few rows": (ksa.LoRA(rank=2, start="eva"), X[:2], "more data"),
    "infinite": (INPUTS, np.full((4, 6), np.inf, "float32"), "NaN or infinite"),
    "infinite components": (COMPONENTS, np.full((4, 6), np.nan, "float32"), "NaN or infinite"),
    "an infinite loss": (GRADIENT, (X, np.full((48, 2), np.inf)), "NaN or infinite"),
}


@pytest.mark.parametrize(("method", "data", "match"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_refused(method, data, match):
    model = rate_models.compiled("plain")
    with refused(model, match):
        ksa.enable(model, method, targets="all", calibrate=data)


def test_an_endless_dataset():
    import tensorflow as tf

    model = rate_models.compiled("plain")
    with refused(model, "take some batches"):
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()
        ksa.enable(model, INPUTS, targets="all", calibrate=data)


def test_models_and_layers_that_do_not_suit():
    model = rate_models.network()
    with refused(model, "`compile` the model"):
        ksa.enable(model, GRADIENT, targets="all", calibrate=(X, Y))
    words = keras.layers.Embedding(9, 5, name="words")
    model = keras.Sequential([keras.Input((4,), dtype="int32"), words])
    with refused(model, "it looks up rows"):
        ksa.enable(model, INPUTS, targets="words", calibrate=np.ones((4, 4), int))
    unbuilt = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"(?s)build.*Received: "):
        ksa.enable(unbuilt, INPUTS, targets="all", calibrate=X)
    layer = keras.layers.Dense(3)
    layer.build((None, 6))
    with pytest.raises(ValueError, match=r"calibrate=x.*Received: "):
        ksa.LoRADense(layer, rank=2, start="eva")


def test_data_of_another_shape():
    model = rate_models.compiled("plain")
    before = snapshot(model)
    with pytest.raises(ValueError, match="shape"):
        ksa.enable(model, INPUTS, targets="second", calibrate=X[:, :3])
    assert snapshot(model) == before


class Cell(keras.layers.Layer):
    """A cell that calls a layer in each time step."""

    def __init__(self):
        super().__init__()
        self.state_size = self.output_size = 3
        self.up = keras.layers.Dense(3, name="up")

    def build(self, shape):
        self.up.build(shape)

    def call(self, x, states):
        y = self.up(x) + states[0]
        return y, [y]


def test_a_loop_over_time_steps():
    """JAX traces the loop, so that nothing sees the inputs; gradients need no inputs."""
    model = keras.Sequential([keras.Input((4, 6)), keras.layers.RNN(Cell())])
    model.compile(loss="mse")
    x, y = X.reshape(-1, 4, 6), np.ones((12, 3))
    before = snapshot(model)
    if keras.backend.backend() == "jax":
        with refused(model, "a traced function"):
            ksa.enable(model, INPUTS, targets="up", calibrate=x)
    found(model, GRADIENT, (x, y), "up")
    assert snapshot(model) == before


def test_a_layer_alone():
    layer = keras.layers.Dense(3)
    layer.build((None, 6))
    ksa.enable(layer, COMPONENTS, calibrate=X)
    np.testing.assert_allclose(np.linalg.norm(numpy(layer.adapter().lora_a)), 1, atol=1e-6)


def test_statistics_have_a_pass_each():
    assert sorted(observing.PASS_OF) == sorted(Statistics._fields)
