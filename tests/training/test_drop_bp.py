"""The backward pass of random branches is dropped; the forward pass stays."""

import keras
import numpy as np
import pytest
from branches import COUNT, DOWN, X, Y, branched, fit
from cases import numpy

import keras_svd_adapters as ksa
from keras_svd_adapters.runtime.gradients import gradients
from keras_svd_adapters.training.schedules.drop_rates import allocated_rates, sensitivities

DATA = (X[:8], Y[:8])


class Watched(ksa.DropBP):
    """Notes what is dropped, and checks that outputs do not depend on it."""

    fixed = None

    def on_step(self, step):
        before = numpy(self.model(X, training=True))
        super().on_step(step)
        gates = [layer.active_gate for layer, *_ in self._chosen]
        for number, gate in enumerate(gates if self.fixed is not None else ()):
            gate.close(number in self.fixed)
        np.testing.assert_array_equal(numpy(self.model(X, training=True)), before)
        self.seen = [*getattr(self, "seen", []), [bool(numpy(gate.closed)[0]) for gate in gates]]


def one_step(model, *callbacks):
    model.fit(X, Y, batch_size=len(X), verbose=0, callbacks=list(callbacks))


def gradients_of(model, x, y):
    found = gradients(lambda: model.compute_loss(x, y, model(x)), model.trainable_variables)
    return [numpy(gradient) for gradient in found]


def same(model, other):
    for one, two in zip(model.weights, other.weights, strict=True):
        assert one.path == two.path
        np.testing.assert_array_equal(numpy(one), numpy(two), err_msg=one.path)


@pytest.mark.parametrize("stopped", [(1,), (0, 3), (0, 1, 2, 3)])
def test_as_with_an_explicit_stop_of_the_gradient(stopped):
    model, twin = (branched(keras.optimizers.SGD(0.1), each) for each in ((), stopped))
    start = [numpy(weight) for weight in model.trainable_weights]
    schedule = Watched(0.5, "down_*")
    schedule.fixed = stopped
    one_step(model, schedule)
    wanted = gradients_of(twin, X, Y)
    for weight, before, gradient in zip(model.trainable_weights, start, wanted, strict=True):
        np.testing.assert_allclose(before - numpy(weight), 0.1 * gradient, atol=1e-6)
        is_stopped = any(f"_{number}/" in weight.path for number in stopped)
        assert np.any(numpy(weight) != before) != is_stopped, weight.path


def test_a_rate_of_zero_is_plain_training():
    plain, model = (branched(keras.optimizers.Adam(1e-2)) for _ in range(2))
    fit(plain, 2)
    schedule = Watched(0.0, "down_*")
    fit(model, 2, schedule)
    assert schedule.seen == [[False] * COUNT] * 8
    same(model, plain)


def test_each_step_drops_its_share_at_random():
    model, schedule = branched(keras.optimizers.SGD(3e-3)), Watched(0.5, "down_*", seed=1)
    fit(model, 8, schedule)
    counts = np.sum(schedule.seen, axis=1)
    assert len(counts) == 32
    assert counts.min() == 2 < counts.max()  # raised to the average, and not cut down to it
    shares = np.mean(schedule.seen, axis=0)
    assert shares.min() > 0.3
    assert shares.max() < 0.95
    again = Watched(0.5, "down_*", seed=1)
    fit(branched(keras.optimizers.SGD(3e-3)), 8, again)
    assert again.seen == schedule.seen


def test_sensitivities_and_rates():
    class Measured(ksa.DropBP):
        def on_step(self, step):
            super().on_step(step)
            if step == 0:
                self.sensitive = sensitivities(self.model, [x for x, *_ in self._chosen], DATA)
            self.rates = [adapter.drop_rate for _, adapter, _ in self._chosen]

    costs = {"down_0": 3.0, "down_*": 1.0}
    schedule = Measured(0.5, costs, data=DATA, at=0)
    fit(branched(keras.optimizers.SGD(3e-3)), 1, schedule)

    def norms(stopped):
        found = gradients_of(branched("sgd", stopped), *DATA)
        return [np.linalg.norm(each) for each in found]

    change = [np.sum(np.subtract(norms({i}), norms(())) ** 2) for i in range(COUNT)]
    np.testing.assert_allclose(schedule.sensitive, change, rtol=1e-4)
    assert schedule.rates == allocated_rates(change, [3, 1, 1, 1], 0.5)
    assert len(set(schedule.rates)) > 1


@pytest.mark.backend_free("NumPy")
def test_rates_rise_where_sensitivity_is_small():
    assert allocated_rates([1.0, 100.0], [1.0, 1.0], 0.45) == [0.9, 0.0]
    assert allocated_rates([1.0, 1.0], [1.0, 1.0], 0.3) == [0.3, 0.3]
    assert allocated_rates([1.0, 2.0], [1.0, 1.0], 0.3) == [0.4, 0.2]
    assert allocated_rates([1.0, 2.0], [1.0, 3.0], 0.9) == [0.9, 0.9]
    assert allocated_rates([1.0, 2.0], [1.0, 3.0], 0.0) == [0.0, 0.0]


@pytest.mark.parametrize("suffix", ["keras", "weights.h5"])
def test_continued_as_if_never_stopped(suffix, tmp_path):
    def schedule():
        return ksa.DropBP(0.5, DOWN, data=DATA, at=2, seed=3)

    path = tmp_path / f"m.{suffix}"
    straight, model = (branched(keras.optimizers.Adam(1e-2)) for _ in range(2))
    fit(straight, 4, schedule())
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=suffix != "keras")
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 1)
    )
    fit(model, 4, schedule(), save, stop)
    if suffix == "keras":
        again = keras.saving.load_model(path)
    else:
        again = branched(keras.optimizers.Adam(1e-2))
        again.optimizer.build(again.trainable_variables)
        again.load_weights(path)
    fit(again, 4, schedule(), first=2)
    rates = [model.get_layer(name).adapter().drop_rate for name in DOWN]
    assert sum(rates) == 2.0
    assert [again.get_layer(name).adapter().drop_rate for name in DOWN] == rates
    same(again, straight)


def test_nothing_of_it_stays_in_the_model():
    model = branched(keras.optimizers.SGD(0.1))
    paths = [weight.path for weight in model.weights]
    fail = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(model, 1, ksa.DropBP(0.9, "down_*"), fail)
    assert [weight.path for weight in model.weights] == paths
    before = [numpy(weight) for weight in model.trainable_weights]
    fit(model, 1)
    for weight, value in zip(model.trainable_weights, before, strict=True):
        assert np.any(numpy(weight) != value), weight.path


@pytest.mark.filterwarnings("ignore:The optimizer of")
def test_another_adapter_in_the_middle():
    model = branched(keras.optimizers.SGD(0.1))
    ksa.enable(model, ksa.LoRA(rank=1), targets=["up_*", "down_*"], name="other")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    switch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batch or ksa.set_adapter(model, "default")
    )
    schedule = Watched(0.5, "down_*")
    schedule.fixed = (0, 1, 2, 3)
    before = [numpy(weight) for weight in model.weights]
    fit(model, 1, schedule, switch)
    for weight, value in zip(model.weights, before, strict=True):
        assert np.any(numpy(weight) != value) == ("head" in weight.path), weight.path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ksa.DropBP(0.95, "down"), "in .0, 0.9.*Received: rate=0.95"),
        (lambda: ksa.DropBP(True, "down"), "Received: rate=True"),
        (lambda: ksa.DropBP(0.5, []), "`branches` must be.*Received: branches={}"),
        (lambda: ksa.DropBP(0.5, {"down": 0}), "`branches` must be.*Received"),
        (lambda: ksa.DropBP(0.5, "down", at=3), "both or none. Received: at=3, without data"),
        (lambda: ksa.DropBP(0.5, "down", data=DATA, at=-1), "both or none. Received: at=-1"),
    ],
)
def test_requests_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_that_does_not_fit():
    model = branched("sgd")
    before = [numpy(weight) for weight in model.weights]
    for schedule, message in [
        (ksa.DropBP(0.5, "left_*"), r"'left_\*' matches no.*`up_0`.*Received: branches='left_"),
        (ksa.DropBP(0.5, "down_*", data=DATA, at=4), "ends at step 4.*Received"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(model, 1, schedule)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(ksa.DropBP(0.5, "down_*", seed=2))
    )
    assert again.get_config() == ksa.DropBP(0.5, "down_*", seed=2).get_config()
