"""Restarts of adapters, and Delta-LoRA."""

import keras
import numpy as np
import pytest
from restarting import NAMES, Watched, X, Y, adapted, arrays, fit

import keras_svd_adapters as ksa


def test_a_restart_keeps_the_function_and_adds_rank():
    method = ksa.methods.RestartedLoRA(rank=2, alpha=3, restarts=2)
    model = adapted(method, keras.optimizers.Adam(1e-2))
    schedule = Watched(every=5)
    fit(model, 4, schedule)
    assert [step for step, *_ in schedule.seen] == [5, 10]
    assert max(jump for _, jump, *_ in schedule.seen) < 2e-6
    assert [(left, count) for *_, left, count in schedule.seen] == [(0.0, 12)] * 2
    v = arrays(model)
    change = 1.5 * (v["past_a"] @ v["past_b"] + v["lora_a"] @ v["lora_b"])
    assert np.linalg.matrix_rank(change, tol=1e-5) == 6
    assert np.linalg.matrix_rank(v["past_a"][:, :2] @ v["past_b"][:2], tol=1e-5) == 2


def test_without_a_restart_it_is_lora():
    models = [
        adapted(method, keras.optimizers.Adam(1e-2))
        for method in (ksa.methods.RestartedLoRA(rank=2), ksa.LoRA(rank=2))
    ]
    for name in NAMES:
        start = arrays(models[0], name)["lora_a"]
        models[1].get_layer(name).adapter().lora_a.assign(start.astype("float32"))
    with pytest.warns(UserWarning, match="Restarts"):
        fit(models[0], 2)
    fit(models[1], 2)
    for name in ("lora_a", "lora_b"):
        np.testing.assert_allclose(arrays(models[0])[name], arrays(models[1])[name], atol=1e-5)


def test_resumed_as_uninterrupted(tmp_path):
    method = ksa.methods.RestartedLoRA(rank=1, restarts=3)
    rate = ksa.JaggedCosine(1e-2, steps=16, every=3, warmup=1)
    whole = adapted(method, keras.optimizers.Adam(rate))
    fit(whole, 4, ksa.Restarts(every=3, share=0.6, seed=2))
    first = adapted(method, keras.optimizers.Adam(rate))
    for name in NAMES:
        for key, variable in first.get_layer(name).adapter().arrays.items():
            assert variable.shape == whole.get_layer(name).adapter().arrays[key].shape
    first.fit(
        X,
        Y,
        batch_size=6,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=[ksa.Restarts(every=3, share=0.6, seed=2), StopAfter(2)],
    )
    first.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    fit(again, 4, ksa.Restarts(every=3, share=0.6, seed=2), first=2)
    for name in NAMES:
        for key, value in arrays(whole, name).items():
            np.testing.assert_array_equal(arrays(again, name)[key], value)


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 >= self.epochs


def test_kernels_that_wait():
    """XGBLoRA: in each round one kernel of three trains."""
    model = adapted(ksa.methods.RestartedLoRA(rank=1, restarts=2), keras.optimizers.Adam(1e-2))
    starts = {name: arrays(model, name)["lora_a"] for name in NAMES}
    fit(model, 1, OneRound(every=4, share=0.34, seed=5))
    masks = {name: arrays(model, name)["mask"].max() for name in NAMES}
    assert sorted(masks.values()) == [0.0, 0.0, 1.0]
    for name in NAMES:
        moved = np.abs(arrays(model, name)["lora_b"]).max()
        assert (moved > 0) == (masks[name] == 1)
        if not masks[name]:
            np.testing.assert_array_equal(arrays(model, name)["lora_a"], starts[name])


class OneRound(ksa.Restarts):
    """Only the first round, however long training is."""

    @property
    def last_step(self):
        return 0


def delta_loop(K, A, B, optimizer, steps, first, c, strength):
    """Delta-LoRA as published, which writes K, for the loss of one linear layer."""
    for step in range(steps):
        x, y = X[6 * (step % 4) :][:6], Y[6 * (step % 4) :][:6]
        G = x.T @ (2 * (x @ (K + c * A @ B) - y) / y.size)
        gradients = {"A": c * G @ B.T, "B": c * A.T @ G}
        before = A @ B
        moves = optimizer(gradients)
        A, B = A - moves["A"], B - moves["B"]
        if step >= first:
            K = K + strength * c * (A @ B - before)
    return K + c * A @ B


def sgd(gradients):
    return {name: 0.5 * g for name, g in gradients.items()}


class AdamLoop:
    def __init__(self):
        self.m, self.v, self.count = {}, {}, 0

    def __call__(self, gradients):
        self.count += 1
        moves = {}
        for name, g in gradients.items():
            self.m[name] = 0.9 * self.m.get(name, 0.0) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, 0.0) + 0.001 * g**2
            mean, square = (
                self.m[name] / (1 - 0.9**self.count),
                self.v[name] / (1 - 0.999**self.count),
            )
            moves[name] = 1e-2 * mean / (np.sqrt(square) + 1e-7)
        return moves


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_delta_lora_against_a_loop_that_writes_the_kernel(kind):
    optimizer = keras.optimizers.SGD(0.5) if kind == "sgd" else keras.optimizers.Adam(1e-2)
    method = ksa.methods.DeltaLoRA(rank=2, alpha=3, strength=0.7)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((9,)), keras.layers.Dense(7, use_bias=False, name="up")])
    ksa.enable(model, method, targets="up")
    model.compile(optimizer, "mse")
    K = keras.ops.convert_to_numpy(model.get_layer("up").base_kernel).astype("float64")
    v = arrays(model)
    expected = delta_loop(
        K, v["lora_a"], v["lora_b"], sgd if kind == "sgd" else AdamLoop(), 12, 5, 1.5, 0.7
    )
    fit(model, 3, ksa.Restarts(every=5))
    assert arrays(model)["follows"] == 1
    ksa.merge(model)
    merged = keras.ops.convert_to_numpy(model.get_layer("up").kernel)
    np.testing.assert_allclose(merged, expected, atol=5e-5)  # Adam divides by small gradients


def test_delta_lora_from_the_start_is_lora_of_a_larger_alpha():
    """Under Adam, which does not see the size of gradients."""
    delta = adapted(
        ksa.methods.DeltaLoRA(rank=2, alpha=2, strength=0.5), keras.optimizers.Adam(1e-2)
    )
    lora = adapted(ksa.LoRA(rank=2, alpha=3), keras.optimizers.Adam(1e-2))
    for name in NAMES:
        own = delta.get_layer(name).adapter().arrays
        own["past_a"].assign(arrays(delta, name)["lora_a"].astype("float32"))
        own["follows"].assign([1.0])
        start = arrays(delta, name)["lora_a"].astype("float32")
        lora.get_layer(name).adapter().lora_a.assign(start)
    with pytest.warns(UserWarning, match="Restarts"):
        fit(delta, 2)
    fit(lora, 2)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(delta(X)), keras.ops.convert_to_numpy(lora(X)), atol=2e-4
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 0}, "`every` must be a positive integer"),
        ({"every": 3, "share": 0}, "`share` must be in"),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises(ValueError, match=f"{message}.*Received"):
        ksa.Restarts(**given)


@pytest.mark.parametrize(
    ("method", "schedule", "message"),
    [
        (ksa.LoRA(rank=2), ksa.Restarts(every=2), "serves"),
        (ksa.methods.RestartedLoRA(rank=1), ksa.Restarts(every=3), "longer than the training"),
        (ksa.methods.DeltaLoRA(rank=1), ksa.Restarts(every=2, share=0.5), "have a mask|has a mask"),
    ],
)
def test_schedules_that_do_not_fit(method, schedule, message):
    model = adapted(method, keras.optimizers.Adam(1e-2))
    before = arrays(model)
    with pytest.raises(ValueError, match=message):
        fit(model, 2, schedule)
    for key, value in arrays(model).items():
        np.testing.assert_array_equal(value, before[key])
