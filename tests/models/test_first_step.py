"""The first step traces a model once, whatever feeds it."""

import keras
import numpy as np
import pytest
from cases import numpy

import keras_svd_adapters as ksa
from keras_svd_adapters.models.state import compiled_functions

SAMPLES = 12
X = np.random.default_rng(0).normal(size=(SAMPLES, 6)).astype("float32")
Y = (np.arange(SAMPLES) % 3).astype("int32")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        return X[rows], Y[rows]


def generator():
    batches = Batches()
    yield from (batches[index] for index in range(3))


FEEDS = {
    "arrays": lambda model: model.fit(X, Y, batch_size=4, shuffle=False, verbose=0),
    "dataset": lambda model: model.fit(Batches(), shuffle=False, verbose=0),
    "generator": lambda model: model.fit(generator(), steps_per_epoch=3, verbose=0),
    "batch": lambda model: [model.train_on_batch(*batch) for batch in generator()],
}
METRICS = {"without metrics": [], "with metrics": ["accuracy"]}


class Counted(keras.layers.Layer):
    """Counts how often Python runs its call for training."""

    calls = 0

    def call(self, x, training=None):
        self.calls += bool(training)
        return x


class Subclassed(keras.Model):
    def __init__(self, counted):
        super().__init__()
        self.hidden, self.counted, self.head = dense(5), counted, dense(3)

    def call(self, x, training=None):
        return self.head(self.counted(self.hidden(x), training=training))


def dense(units):
    return keras.layers.Dense(units, name=f"dense_of_{units}")


def sequential(counted):
    return keras.Sequential([keras.Input((6,)), dense(5), counted, dense(3)])


def subclassed(counted):
    model = Subclassed(counted)
    model(X)
    return model


def with_two_outputs(counted):
    x = keras.Input((6,))
    hidden = counted(dense(5)(x))
    return keras.Model(x, [dense(3)(hidden), dense(4)(hidden)])


KINDS = {"subclassed": (subclassed, Y), "two outputs": (with_two_outputs, [Y, Y])}


def trained(feed, metrics, make=sequential):
    """Train three steps, and return values, metrics, names of variables and the counting layer."""
    keras.utils.set_random_seed(0)
    counted = Counted()
    model = make(counted)
    ksa.enable(model, ksa.SVF(), targets="dense_of_5", verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-2, name="adam"), loss=loss, metrics=metrics)
    counted.calls = 0
    feed(model)
    results = {name: float(value) for name, value in model.get_metrics_result().items()}
    assert int(model.optimizer.iterations) == 3
    variables = [*model.optimizer.variables, *model.metrics_variables]
    values = [numpy(weight) for weight in model.trainable_weights]
    return values, results, [variable.path for variable in variables], counted


@pytest.mark.parametrize("metrics", METRICS)
@pytest.mark.parametrize("feed", FEEDS)
def test_each_batch_trains_once_in_one_trace(feed, metrics, monkeypatch):
    check_as_keras_alone(monkeypatch, FEEDS[feed], METRICS[metrics])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_model_has_one_trace(kind, monkeypatch):
    make, targets = KINDS[kind]
    check_as_keras_alone(
        monkeypatch,
        lambda model: model.fit(X, targets, batch_size=4, shuffle=False, verbose=0),
        [],
        make,
    )


def check_as_keras_alone(monkeypatch, *case):
    values, results, names, counted = trained(*case)
    if keras.backend.backend() == "tensorflow":
        assert counted.calls == 1
    monkeypatch.setattr(compiled_functions, "builds_first", lambda model, function: function)
    expected, expected_results, expected_names, _ = trained(*case)
    assert names == expected_names  # files of Orbax keep the slots by name
    assert results == pytest.approx(expected_results, rel=1e-6)
    for value, other in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6)
