"""On two logical CPUs, TensorFlow's own data parallelism trains as one of them alone would."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_svd_adapters as ksa

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import models

# One model for all of them: each trace of two replicas takes seconds.
METHODS = {
    "query": ksa.LoRA(rank=2),
    "key": ksa.DoRA(rank=2),
    "value": ksa.SVFT("banded", d=1),
    "*": ksa.VeRA(rank=8),
}
IDS = np.random.default_rng(0).integers(1, models.TOKENS, size=(8, 8)).astype("int32")
X = {"token_ids": IDS, "padding_mask": np.ones_like(IDS), "segment_ids": np.zeros_like(IDS)}
Y = np.arange(8) % 3


def trained(scope):
    keras.utils.set_random_seed(0)
    with scope:
        model, _, _ = models.classifier(num_layers=1)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-2), loss)
    keras.utils.set_random_seed(1)
    ksa.enable(model, targets=METHODS, verbose=0)  # which finds the strategy by the kernels
    return model, model.fit(X, Y, epochs=3, batch_size=8, shuffle=False, verbose=0).history["loss"]


def main(folder):
    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    alone, expected = trained(nullcontext())
    model, found = trained(strategy.scope())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    for ours, theirs in zip(model.trainable_weights, alone.trainable_weights, strict=True):
        np.testing.assert_allclose(
            ours.numpy(), theirs.numpy(), rtol=0, atol=1e-4, err_msg=ours.path
        )
    y = np.asarray(model(X))
    with ksa.disabled(model):  # replicas compute in threads of their own
        plain = model.predict(X, batch_size=8, verbose=0)
    np.testing.assert_allclose(model.predict(X, batch_size=8, verbose=0), y, rtol=0, atol=1e-5)
    assert np.abs(plain - y).max() > 1e-3
    mixed = ksa.predict(model, X, ["default", None] * 4)
    np.testing.assert_allclose(mixed[::2], y[::2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(mixed[1::2], plain[1::2], rtol=0, atol=1e-5)
    ksa.save_adapter(model, folder / "adapter.keras")
    ksa.delete_adapter(alone, "default")
    ksa.load_adapter(alone, folder / "adapter.keras", verbose=0)
    np.testing.assert_allclose(np.asarray(alone(X)), y, rtol=0, atol=1e-5)
    refuses_rules(strategy)


def refuses_rules(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="up")])
        ksa.enable(model, ksa.LoRA(rank=1), targets="up")
        model.compile(ksa.rules(keras.optimizers.Adam(3e-3), [ksa.Sensitivity()]), "mse")
    with pytest.raises(ValueError, match="several replicas.*Received: 2 replicas"):
        model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)


main(Path(sys.argv[1]))
