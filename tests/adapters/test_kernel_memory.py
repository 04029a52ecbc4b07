"""A kernel that no step reads is in host memory, and comes back bit for bit for those that do."""

import keras
import numpy as np
import pytest

import keras_svd_adapters as ksa
from keras_svd_adapters.runtime import host_memory

FACTORED = {
    "svf": ksa.SVF(formulation="factored"),
    "svft": ksa.SVFT(pattern="banded", d=1, formulation="factored"),
    "svdiff": ksa.methods.SVDiff(formulation="factored"),
}
BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(16, 5, 8)).astype("float32")
Y = np.zeros((16, 5, 2), "float32")


@pytest.fixture
def device_memory(monkeypatch):
    """Make a CPU of JAX pass for a device with a memory of its own."""
    if BACKEND == "jax":
        monkeypatch.setattr(host_memory, "_has_own_memory", lambda value: True)


def model(dtype="float32"):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((5, 8)),
            keras.layers.Dense(16, activation="tanh", dtype=dtype),
            keras.layers.EinsumDense("abc,cd->abd", (5, 4), dtype=dtype),
            keras.layers.Dense(2, dtype=dtype),
        ]
    )


def kernels(net):
    return [keras.ops.convert_to_numpy(layer.kernel).astype("float32") for layer in net.layers]


def elsewhere(net):
    """Returns how many kernels are in host memory: on a CPU, those of JAX alone can be."""
    return sum(host_memory.is_on_host(weight) for weight in net.weights)


def moved(count):
    return count if BACKEND == "jax" and host_memory._steps_keep_memory() else 0


def output(net):
    return net.predict(X, verbose=0)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("name", FACTORED)
def test_the_kernel_leaves_and_comes_back(name, dtype, device_memory, tmp_path):
    net = model(dtype)
    own, before = kernels(net), output(net)
    status = ksa.enable(net, FACTORED[name], targets="all")
    assert elsewhere(net) == moved(2)
    assert status.host_bytes == moved(
        sum(k.size for k in own[:2]) * (2 if dtype == "bfloat16" else 4)
    )
    assert ("in host memory" in str(status)) == (moved(1) == 1)
    net.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
    net.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    assert elsewhere(net) == moved(2)
    trained = output(net)
    assert not np.array_equal(trained, before)
    with ksa.disabled(net):
        np.testing.assert_array_equal(output(net), before)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(net(X)), net.predict_on_batch(X))
    np.testing.assert_array_equal(output(net), trained)
    net.save(tmp_path / "whole.keras")
    loaded = keras.saving.load_model(tmp_path / "whole.keras")
    assert elsewhere(loaded) == moved(2)
    np.testing.assert_array_equal(output(loaded), trained)
    for found, expected in zip(kernels_of_base(loaded), own, strict=True):
        np.testing.assert_array_equal(found, expected)
    ksa.delete_adapter(net, "default")
    assert elsewhere(net) == 0
    np.testing.assert_array_equal(output(net), before)


def kernels_of_base(net):
    with ksa.disabled(net):
        return kernels(net)


def test_other_adapters_find_the_kernel(device_memory):
    net = model()
    before = output(net)
    ksa.enable(net, FACTORED["svft"], targets="all")
    ksa.enable(net, ksa.LoRA(rank=2), targets="all", name="lora")
    assert elsewhere(net) == 0
    np.testing.assert_array_equal(output(net), before)
    ksa.set_adapter(net, "default")
    assert elsewhere(net) == moved(2)
    ksa.set_adapter(net, {"default": 0.5, "lora": 1.0})
    assert elsewhere(net) == 0
    np.testing.assert_allclose(output(net), before, atol=1e-5)
    ksa.set_adapter(net, None)
    assert elsewhere(net) == 0
    np.testing.assert_array_equal(output(net), before)


def test_merge_and_unmerge(device_memory):
    net = model()
    own = kernels(net)
    ksa.enable(net, FACTORED["svf"], targets="all")
    net.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
    net.fit(X, Y, verbose=0)
    trained = output(net)
    ksa.merge(net)
    assert elsewhere(net) == 0
    np.testing.assert_allclose(output(net), trained, atol=1e-5)
    ksa.unmerge(net)
    assert elsewhere(net) == moved(2)
    np.testing.assert_array_equal(output(net), trained)
    for found, expected in zip(kernels_of_base(net), own, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_failed_request_leaves_kernels_where_they_are(device_memory):
    net = model()
    ksa.enable(net, FACTORED["svf"], targets="all")
    with pytest.raises(ValueError, match="has an adapter of this name"):
        ksa.enable(net, ksa.LoRA(rank=2), targets="all")
    assert elsewhere(net) == moved(2)


def test_plan_names_the_bytes_that_no_step_reads():
    found = ksa.plan(model(), FACTORED["svf"], targets="all")
    assert found.unread_bytes == 4 * (8 * 16 + 16 * 4)
    assert "no step reads" in str(found)
    assert ksa.plan(model(), ksa.SVF(), targets="all").unread_bytes == 0


def test_a_switch_inside_of_fit_moves_the_kernel(device_memory):
    net = model()
    ksa.enable(net, FACTORED["svf"], targets="all")
    ksa.enable(net, ksa.LoRA(rank=2), targets="all", name="lora")
    found = []

    class Switch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            ksa.set_adapter(net, ("lora", "default")[epoch % 2])

        def on_epoch_end(self, epoch, logs=None):
            found.append(net.layers[0].active_adapter)

    net.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
    net.fit(X, Y, epochs=4, verbose=0, callbacks=[Switch()])
    assert found == ["lora", "default"] * 2
    assert elsewhere(net) == moved(2)
    assert ksa.status(net).host_bytes == moved(4 * (8 * 16 + 16 * 4))
