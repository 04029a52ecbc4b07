"""The base of all callbacks that act between training steps."""

import keras
import numpy as np
import pytest
from cases import numpy, shake

import keras_svd_adapters as ksa

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 6)).astype("float32"), RNG.normal(size=(32, 2)).astype("float32")
BATCH = 2  # sixteen batches an epoch
IS_TORCH = keras.backend.backend() == "torch"


def adapted(optimizer=None, **how):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="gelu", name="up")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
    ksa.enable(model, ksa.LoRA(rank=2), targets="up")
    shake(model, seed=3)
    model.compile(optimizer or keras.optimizers.Adam(1e-2, name="adam"), "mse", **how)
    return model


def fit(model, *callbacks, epochs=1, first=0):
    model.fit(
        X,
        Y,
        batch_size=BATCH,
        epochs=epochs,
        initial_epoch=first,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


@keras.saving.register_keras_serializable("tests")
class Kick(ksa.Schedule):
    """Adds random numbers to an array in some steps, and notes when."""

    def __init__(self, steps=(), seed=0, last=None):
        super().__init__(seed)
        self.steps, self.last, self.seen = list(steps), last, []

    @property
    def last_step(self):
        return self.last

    def due(self, step):
        return step in self.steps

    def on_step(self, step):
        iterations = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        self.seen.append((step, iterations))
        (adapter,) = self.adapters()
        assert adapter.path == "up"
        noise = self.random(step).normal(size=adapter.arrays["lora_a"].shape)
        adapter.arrays["lora_a"].assign(adapter.arrays["lora_a"] + 0.1 * noise)

    def get_config(self):
        return {**super().get_config(), "steps": self.steps, "last": self.last}


class StopAfter(keras.callbacks.Callback):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_train_batch_end(self, batch, logs=None):
        self.batches -= 1
        if not self.batches:
            self.model.stop_training = True


def same(model, other):
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs), err_msg=ours.path)
    ours, theirs = model.optimizer.variables, other.optimizer.variables
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b), err_msg=a.path)


MODES = {
    "plain": ({}, {}, [0, 3, 16, 21], [(0, 0), (3, 3), (16, 16), (21, 21)]),
    "accumulation": (
        {"gradient_accumulation_steps": 4},
        {},
        [0, 3, 5],
        [(0, 0), (3, 3), (5, 5)],
    ),
    "executions": (
        {},
        {"steps_per_execution": 4},
        [0, 3, 5, 17],
        [(0, 0), (3, 4), (5, 8), (17, 20)],
    ),
    "remainder": (
        {},
        {"steps_per_execution": 5},
        [14, 15, 16, 18],
        [(15, 15), (16, 16), (18, 21)],
    ),
    "both": (
        {"gradient_accumulation_steps": 2},
        {"steps_per_execution": 8},
        [1, 2, 9],
        [(2, 4), (9, 12)],
    ),
    "eager": ({}, {"run_eagerly": True}, [2], [(2, 2)]),
}
if IS_TORCH:
    del MODES["executions"], MODES["remainder"], MODES["both"]  # PyTorch takes single steps


@pytest.mark.parametrize("mode", MODES)
def test_steps_are_those_of_the_optimizer(mode):
    settings, how, steps, expected = MODES[mode]
    kick = Kick(steps)
    fit(adapted(keras.optimizers.Adam(1e-2, **settings), **how), kick, epochs=2)
    assert kick.seen == expected


@pytest.mark.parametrize("mode", MODES)
def test_what_never_acts_changes_nothing(mode):
    settings, how, *_ = MODES[mode]
    runs = []
    for callbacks in ([], [Kick()]):
        model = adapted(keras.optimizers.Adam(1e-2, name="adam", **settings), **how)
        fit(model, *callbacks, epochs=2)
        runs.append(model)
    same(*runs)


def test_continued_as_if_never_stopped(tmp_path):
    steps = [0, 5, 16, 20]
    straight = adapted()
    fit(straight, Kick(steps, seed=4), epochs=2)
    for order in (0, 1):
        model = adapted()
        callbacks = [Kick(steps, seed=4), keras.callbacks.ModelCheckpoint(tmp_path / "m.keras")]
        fit(model, *callbacks[:: 1 - 2 * order])
        again = keras.saving.load_model(tmp_path / "m.keras")
        kick = Kick(steps, seed=4)
        fit(again, kick, epochs=2, first=1)
        assert kick.seen == [(16, 16), (20, 20)]
        same(again, straight)
    other = adapted()
    fit(other, Kick(steps, seed=5), epochs=2)
    assert (
        np.abs(numpy(other.trainable_weights[0]) - numpy(straight.trainable_weights[0])).max() > 0
    )


def test_steps_that_a_loss_scale_skips():
    inner = keras.optimizers.Adam(1e-2)
    huge = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**127)
    model, kick = adapted(huge), Kick([0, 2, 4])
    shake(model, size=10)
    fit(model, kick, epochs=2)
    skipped = 32 - int(keras.ops.convert_to_numpy(inner.iterations))
    assert skipped > 2
    assert kick.seen == [(0, 0), (2, 2), (4, 4)]


def test_it_is_written_as_a_configuration():
    kick = Kick([1, 2], seed=3, last=7)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(kick))
    assert (again.get_config(), type(again)) == (kick.get_config(), Kick)


def test_longer_than_the_training():
    model = adapted()
    before = [numpy(w) for w in model.weights]
    for last in (32, 33):  # a schedule acts before the update of that number
        match = f"ends at step {last}.*has number 31.*Received: {{'seed': 0"
        with pytest.raises(ValueError, match=match):
            fit(model, Kick([0], last=last), epochs=2)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)
    fit(model, Kick([0], last=31), StopAfter(3), epochs=2)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 3
