"""Restarts with another optimizer, after a failure, and with averages: nothing is lost."""

import keras
import numpy as np
import pytest
from restarting import Watched, adapted, arrays, fit

import keras_svd_adapters as ksa


@pytest.mark.parametrize("rules", [[], [ksa.Sensitivity()]])
def test_moving_averages_begin_again_at_the_new_factors(rules):
    method = ksa.methods.RestartedLoRA(rank=1, restarts=1)
    inner = keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.999)
    model = adapted(method, ksa.rules(inner, rules) if rules else inner, names=["up"])
    start = arrays(model)["lora_a"]
    fit(model, 2, ksa.Restarts(every=7))
    end = arrays(model)["lora_a"]  # `fit` ends with the averages
    assert np.abs(end - start).max() > 0.02
    assert np.linalg.norm(end) > 0.5 * np.linalg.norm(start)


def test_a_new_optimizer_does_not_overwrite_the_past():
    for method in (ksa.methods.RestartedLoRA(rank=1, restarts=2), ksa.methods.DeltaLoRA(rank=1)):
        model = adapted(method, keras.optimizers.Adam(1e-2))
        fit(model, 3, ksa.Restarts(every=3))
        fit(model, 3, ksa.Restarts(every=3))  # the same optimizer goes on
        model.compile(keras.optimizers.Adam(1e-2), "mse")
        before = arrays(model)
        with pytest.raises(ValueError, match="restarted before.*Received: `.*at step 0"):
            fit(model, 3, ksa.Restarts(every=3))
        for key, value in arrays(model).items():
            np.testing.assert_array_equal(value, before[key])


def test_a_restart_whose_step_failed_is_not_repeated():
    fail = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda i, logs: 1 / (i - 2))
    model = adapted(ksa.methods.RestartedLoRA(rank=1, restarts=2), keras.optimizers.Adam(1e-2))
    with pytest.raises(ZeroDivisionError):
        fit(model, 3, ksa.Restarts(every=2), fail)
    before = arrays(model)
    schedule = ksa.Restarts(every=2)
    schedule.set_model(model)
    schedule.on_train_begin()
    schedule.on_epoch_begin(0)
    schedule.on_train_batch_begin(0)
    assert before["past_b"].any()
    for key, value in arrays(model).items():
        np.testing.assert_array_equal(value, before[key])


def test_a_kernel_without_a_restart_left_does_not_wait():
    model = adapted(ksa.methods.RestartedLoRA(rank=1, restarts=1), keras.optimizers.Adam(1e-2))
    ksa.delete_adapter(model, "default")
    few, many = (ksa.methods.RestartedLoRA(rank=1, restarts=count) for count in (1, 3))
    ksa.enable(model, targets={"up": few, "side": many, "down": many})
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    schedule = Watched(every=2, share=0.34, seed=1)
    fit(model, 2, schedule)
    assert max(jump for _, jump, *_ in schedule.seen) < 2e-6
