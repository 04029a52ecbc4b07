"""A stream of data with unknown borders: Online-LoRA."""

import keras
import numpy as np
import pytest
from autodiff import loss_gradients
from cases import numpy
from restarting import X, Y, adapted, arrays

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.training.continual.importance import importance
from keras_svd_adapters.training.continual.plateau import (
    Stream,
    after_loss,
    from_array,
    to_array,
)

LIMITS = {"window": 3, "mean": 1.0, "variance": 0.02}
SERIES = {  # losses, and the numbers of the losses that end a plateau
    "falls once": ([3, 2, 1, 0.5, 0.45, 0.5, 0.45, 0.5], [5]),
    "rises and falls": ([0.5] * 4 + [2, 1.5, 0.6, 0.5, 0.5, 0.5], [2, 8]),
    "a small rise is none": ([0.5, 0.6, 0.5, 0.52, 0.53, 0.55, 0.5], [2]),
    "the mean must rise by a standard deviation": ([0.5, 0.6, 0.5, 0.6, 0.7, 0.6, 0.6], [2, 4]),
    "never below": ([1.5] * 9, []),
    "never steady": ([0.2, 0.9] * 5, []),
    "losses that are not finite do not count": ([0.5, np.nan, 0.5, np.inf, 0.5], [4]),
}


@pytest.mark.backend_free("numbers")
@pytest.mark.parametrize(("losses", "expected"), SERIES.values(), ids=SERIES)
def test_plateaus_of_planted_losses(losses, expected):
    stream, found = Stream(), []
    for number, loss in enumerate(losses):
        stream, is_plateau = after_loss(from_array(to_array(stream, 37)), loss, **LIMITS)
        found += [number] if is_plateau else []
    assert found == expected
    assert stream.plateaus == len(expected)


NAMES = ["up", "side"]
METHOD = methods.OnlineLoRA(rank=1, alpha=2, tasks=3, importance_weight=6.0)


class Planted(keras.losses.Loss):
    """The loss that the targets give, whatever the model computes; its slope is 1."""

    def call(self, y_true, y_pred):
        return y_true[:, 0] + y_pred[:, 0] - keras.ops.stop_gradient(y_pred[:, 0])


PLANTED = [3.0, 0.5, 0.5, 0.5, 0.5, 2.0, 0.5, 0.5, 0.5, 0.5, 0.5, 3.0, 0.5, 0.5, 0.5]


def stream_of(epochs):
    """Batches of 2, 3, 2, 3 ... samples with these losses."""
    count = len(PLANTED) // 3
    for epoch in range(*epochs):
        for batch in range(count * epoch, count * (epoch + 1)):
            rows = 2 + batch % 2
            yield X[:rows], np.full((rows, 1), PLANTED[batch], "float32")


class Seen(ksa.OnlineLoRASchedule):
    """Notes where the number of past factors, or the outputs, change."""

    begun = ()

    def on_train_batch_end(self, batch, logs=None):
        before = [numpy(self.model(X)), arrays(self.model)["past_b"].any(axis=1).sum()]
        super().on_train_batch_end(batch, logs)
        after = arrays(self.model)
        if after["past_b"].any(axis=1).sum() > before[1]:
            assert not after["lora_b"].any()
            self.begun += (int(numpy(self.model.optimizer.iterations)),)
        np.testing.assert_allclose(numpy(self.model(X)), before[0], atol=1e-6)


def train(model, schedule, first=0, last=3):
    for epoch in range(first, last):  # a generator is one epoch
        model.fit(
            stream_of((epoch, epoch + 1)),
            steps_per_epoch=5,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=0,
            callbacks=[schedule],
        )


def compiled(method=METHOD):
    model = adapted(method, "sgd", NAMES)
    model.compile(keras.optimizers.Adam(1e-2), Planted())
    return model


def test_it_begins_again_on_planted_plateaus_and_resumes(tmp_path):
    whole, schedule = compiled(), Seen(mean=1, variance=0.02, window=3)
    with pytest.warns(UserWarning, match="more parts than the adapter has `tasks`"):
        train(whole, schedule)
    assert schedule.begun == (4, 9)  # the third plateau has no place
    first = compiled()
    train(first, ksa.OnlineLoRASchedule(mean=1, variance=0.02, window=3), last=1)
    first.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", {"Planted": Planted})
    with pytest.warns(UserWarning, match="more parts"):
        train(again, ksa.OnlineLoRASchedule(mean=1, variance=0.02, window=3), first=1)
    for name in NAMES:
        for key, value in arrays(whole, name).items():
            np.testing.assert_array_equal(arrays(again, name)[key], value)


def test_value_and_gradient_of_the_penalty():
    model = compiled()
    rng = np.random.default_rng(1)
    for name in NAMES:
        own = model.get_layer(name).adapter().arrays
        for key in ("lora_b", "importance_a", "importance_b"):
            own[key].assign(rng.uniform(size=own[key].shape))
    found = dict(zip([w.path for w in model.trainable_weights], loss_gradients(model), strict=True))
    expected = 0.0
    for name in NAMES:
        v, own = arrays(model, name), model.get_layer(name).adapter().arrays
        for side in "ab":
            weight, value = v[f"importance_{side}"], v[f"lora_{side}"]
            expected += 3 * (weight * value**2).sum()
            np.testing.assert_allclose(
                found[own[f"lora_{side}"].path], 6 * weight * value, rtol=1e-4
            )
    np.testing.assert_allclose(sum(map(numpy, model.losses)), expected, rtol=1e-5)


@pytest.mark.parametrize("form", ["numbers", "one-hot"])
def test_importance_against_numpy(form):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((9,)), keras.layers.Dense(4, use_bias=False, name="up")])
    ksa.enable(model, METHOD, targets="up")
    own = model.get_layer("up").adapter().arrays
    own["lora_b"].assign(np.random.default_rng(1).normal(size=own["lora_b"].shape))
    labels = np.argmax(Y[:, :4], axis=1)
    kind = keras.losses.SparseCategoricalCrossentropy
    y = labels
    if form == "one-hot":
        kind, y = keras.losses.CategoricalCrossentropy, np.eye(4, dtype="float32")[labels]
    model.compile("sgd", kind(from_logits=True))
    found = importance(model, [own["lora_a"], own["lora_b"]], X, y, hardest=3)

    v, K = arrays(model), numpy(model.get_layer("up").base_kernel).astype("float64")
    logits = X @ (K + 2 * v["lora_a"] @ v["lora_b"])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    hard = np.argsort(p[np.arange(len(X)), labels])[:3]
    expected = [0.0, 0.0]
    for i in hard:
        G = np.outer(X[i], p[i] - np.eye(4)[p[i].argmax()])
        for place, slope in enumerate((2 * G @ v["lora_b"].T, 2 * v["lora_a"].T @ G)):
            expected[place] = expected[place] + slope**2 / 3
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-8)


def test_importance_is_a_mean_over_the_parts(monkeypatch):
    calls = []

    def numbered(model, variables, x, y, hardest):
        assert (x, y, hardest) == ("x", "y", 2)
        calls.append(len(variables))
        return [np.full(v.shape, float(len(calls))) for v in variables]

    monkeypatch.setattr("keras_svd_adapters.training.continual.online_lora.importance", numbered)
    model = compiled()
    schedule = ksa.OnlineLoRASchedule(1, 0.02, 3, samples=lambda: ("x", "y"), hardest=2)
    train(model, schedule, last=2)
    assert calls == [2 * len(NAMES)] * 2
    for name in NAMES:
        for key in ("importance_a", "importance_b"):
            np.testing.assert_allclose(arrays(model, name)[key], 1.5)


def test_importance_needs_one_loss():
    model = compiled()
    model.compile("sgd", ["mse"])
    with pytest.raises(ValueError, match=r"one loss.*Received: loss=.*\['mse'\]"):
        train(model, ksa.OnlineLoRASchedule(1, 0.02, samples=lambda: (X, Y)), last=1)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mean": 0}, "`mean` must be positive"),
        ({"variance": -1}, "`variance` must be positive"),
        ({"window": 0}, "`window` must be a positive"),
        ({"window": 33}, "`window` must be at most 32"),
        ({"hardest": 0}, "`hardest` must be a positive"),
        ({"samples": ([1], [2])}, "`samples` is a function"),
    ],
)
def test_bad_arguments(bad, message):
    with pytest.raises(ValueError, match=f"{message}.*Received"):
        ksa.OnlineLoRASchedule(**{"mean": 1.0, "variance": 0.1} | bad)
    with pytest.raises(ValueError, match="`importance_weight` must not be negative"):
        methods.OnlineLoRA(importance_weight=-1)


def test_its_settings_are_saved():
    schedule = ksa.OnlineLoRASchedule(1.0, 0.1, window=7, hardest=2, seed=3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert (type(again), again.get_config()) == (type(schedule), schedule.get_config())
