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


def trained(feed, metrics):
    """Return the trained values after three steps, the metrics and the counting layer."""
    keras.utils.set_random_seed(0)
    counted = Counted()
    hidden = keras.layers.Dense(5, activation="relu")
    model = keras.Sequential([keras.Input((6,)), hidden, counted, keras.layers.Dense(3)])
    ksa.enable(model, ksa.SVF(), verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=loss, metrics=METRICS[metrics])
    counted.calls = 0
    FEEDS[feed](model)
    results = {name: float(value) for name, value in model.get_metrics_result().items()}
    assert int(model.optimizer.iterations) == 3
    return [numpy(weight) for weight in model.trainable_weights], results, counted


@pytest.mark.parametrize("metrics", METRICS)
@pytest.mark.parametrize("feed", FEEDS)
def test_each_batch_trains_once_in_one_trace(feed, metrics, monkeypatch):
    values, results, counted = trained(feed, metrics)
    if keras.backend.backend() == "tensorflow":
        assert counted.calls == 1
    monkeypatch.setattr(compiled_functions, "builds_first", lambda model, function: function)
    expected, expected_results, _ = trained(feed, metrics)
    assert results == pytest.approx(expected_results, rel=1e-6)
    for value, other in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6)
