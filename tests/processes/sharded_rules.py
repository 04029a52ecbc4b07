"""On two simulated devices, rules, their statistics and a schedule act as on one (JAX)."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras.distribution import DataParallel, DeviceMesh, LayoutMap, ModelParallel, set_distribution

import keras_svd_adapters as ksa

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 8)).astype("float32"), RNG.normal(size=(32, 8)).astype("float32")


def trained(spread):
    """A model, and its optimizer after some steps with rules and a schedule that prunes ranks."""
    set_distribution(spread)
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((8,))
    for name in ("up", "down"):
        x = keras.layers.add([x, keras.layers.Dense(8, activation="tanh", name=name)(x)])
    model = keras.Model(inputs, x)
    ksa.enable(model, ksa.methods.AdaLoRA(rank=4), targets=["up", "down"], verbose=0)
    schedule = ksa.AdaLoRASchedule(rank=2, begin=1, end=6, every=2)
    rules = [*schedule.rules(), ksa.Rates({"*/lora_b": 4.0}), ksa.Proximal({"*/lora_a": 0.01})]
    optimizer = ksa.rules(keras.optimizers.Adam(1e-2, weight_decay=0.01), rules)
    model.compile(optimizer, "mse")
    how = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    drop = ksa.DropBP(0.4, ["up", "down"])
    model.fit(X, Y, callbacks=[schedule, drop, ksa.AdapterHealth()], **how)
    return model


def main():
    alone = trained(None)
    mesh = DeviceMesh((1, 2), ("batch", "model"))
    cut = LayoutMap(mesh)
    cut["up.*kernel"], cut["down.*kernel"] = (None, "model"), ("model", None)
    for spread in (DataParallel(DeviceMesh((2,), ("batch",))), ModelParallel(layout_map=cut)):
        model = trained(spread)
        kernel = model.get_layer("up").base_kernel
        assert len(kernel.value.sharding.device_set) == 2
        pairs = [*zip(model.weights, alone.weights, strict=True)]
        pairs += zip(model.optimizer.variables, alone.optimizer.variables, strict=True)
        for ours, theirs in pairs:
            found, expected = np.asarray(ours), np.asarray(theirs)
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5, err_msg=ours.path)
        masks = [np.asarray(model.get_layer(name).adapter().mask) for name in ("up", "down")]
        assert np.sum(masks) == 4


main()
