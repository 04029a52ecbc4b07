"""Methods with a gate or a mask for each rank: what stays off, and what the scale keeps."""

import tracemalloc
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import METHODS, batch, close, numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.methods.gated.gated import Gated

GATED = [n for n, c in METHODS.items() if isinstance(c.method, Gated) and not c.variant]
ZERO_AT_START = {
    "adalora": ["gate"],
    "dynamic_dora": ["gate"],
    "sora": ["lora_b"],
    "allocating_lora": ["lora_b"],
    "autolora": ["gate", "lora_b"],
}
X, Y = batch((9, 8)), batch((9, 7), seed=4)


def adapted(method, size=0.3):
    layer = keras.layers.Dense(7)
    model = keras.Sequential([keras.Input((8,)), layer])
    ksa.enable(model, method, "*")
    shake(model, size)
    return model, layer.adapter()


@pytest.mark.parametrize("name", [*GATED, "dylora"])
def test_a_masked_rank_is_off_and_stays_off(name):
    model, adapter = adapted(METHODS[name].method)
    ranks = adapter.mask.shape[0]
    mask = (np.arange(ranks) < 2).astype("float32")
    adapter.mask.assign(mask)
    v = adapter.numpy_values()[0]
    for array, gradient in zip(model.trainable_weights, gradients(model, X, Y), strict=True):
        by_rank = gradient.T if array.name == "lora_a" else gradient
        if name != "autolora" or array.name != "gate":  # a softmax moves all of its logits
            assert [bool(np.any(part)) for part in by_rank] == list(mask > 0), array.path
    model.compile(keras.optimizers.AdamW(1e-2), "mse")
    model.fit(X, Y, epochs=3, verbose=0)
    alpha, after = adapter.method.alpha or adapter.method.rank, adapter.numpy_values()[0]
    assert np.any(after.lora_b != v.lora_b)
    if name == "dylora":
        scales = np.full(2, alpha / 2)
    else:
        scales = adapter.method.scale * adapter.method.gate(after)[:2]
        assert adapter.method.scale == alpha / adapter.method.rank
    delta = (after.lora_a[:, :2] * scales) @ after.lora_b[:2]
    close(numpy(adapter.delta(model.layers[0].base_kernel)), delta, 1e-5)


def test_a_gate_at_zero_comes_back_without_a_mask():
    model, adapter = adapted(methods.AdaLoRA(rank=3))
    adapter.gate.assign([1.0, 0.0, 0.0])
    adapter.mask.assign([1.0, 1.0, 0.0])
    model.compile(keras.optimizers.SGD(1e-2), "mse")
    model.fit(X, Y, verbose=0)
    assert list(numpy(adapter.gate) != 0) == [True, True, False]


@pytest.mark.parametrize("name", GATED)
def test_norms_of_ranks(name):
    _, adapter = adapted(METHODS[name].method)
    (v,) = adapter.numpy_values()
    expected = []
    for rank in range(adapter.mask.shape[0]):
        alone = np.arange(adapter.mask.shape[0]) == rank
        one = SimpleNamespace(**{**vars(v), "mask": v.mask * alone})
        expected.append(np.linalg.norm(np.matmul(*adapter.method.low_rank(one, 8))))
    np.testing.assert_allclose(adapter.method.rank_norms(v), expected, rtol=1e-10)


@pytest.mark.backend_free("NumPy")
def test_norms_of_ranks_need_no_kernel_for_each_rank():
    method, (m, n, r) = methods.DynamicDoRA(rank=16), (700, 600, 16)
    v = SimpleNamespace(
        lora_a=np.ones((m, r)), lora_b=np.ones((r, n)), gate=np.ones(r), mask=np.ones(r)
    )
    tracemalloc.start()
    found = method.rank_norms(v)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(found, method.scale * np.sqrt(m * n))
    assert peak < 8 * m * n / 4


def test_starts():
    for name in GATED:
        _, adapter = adapted(METHODS[name].method, size=0)
        (v,) = adapter.numpy_values()
        zero = [k for k in ("gate", "lora_b") if not np.any(vars(v)[k])]
        assert zero == ZERO_AT_START[name], name
        decaying = {k for k, variable in adapter.arrays.items() if getattr(variable, "decays", 0)}
        assert decaying - {"mask"} == set(zero), "weight decay acts on what starts at 0 alone"
    _, adapter = adapted(methods.AutoLoRA(rank=4), size=0)
    np.testing.assert_allclose(adapter.method.gate(adapter.numpy_values()[0]), np.full(4, 1 / 4))


def test_spare_ranks_are_off_until_a_schedule_turns_them_on():
    model, adapter = adapted(methods.AllocatingLoRA(rank=2, alpha=4, spare=3))
    assert list(numpy(adapter.mask)) == [1, 1, 0, 0, 0]
    assert adapter.method.scale == 2.0
    before = model.predict(X, verbose=0)
    adapter.mask.assign([1, 1, 1, 0, 0])
    change = model.predict(X, verbose=0) - before
    (v,) = adapter.numpy_values()
    close(change, 2 * X @ (v.lora_a[:, 2:3] * v.gate[2]) @ v.lora_b[2:3], 1e-4)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (lambda: methods.AllocatingLoRA(spare=-1), "spare=-1"),
        (lambda: methods.DyLoRA(seed=-1), "seed=-1"),
        (lambda: methods.DyLoRA(seed=2**31), "seed=2147483648"),
        (lambda: methods.DiffPruning(share=1.5), "share=1.5"),
        (lambda: methods.AFLoRA(d_initial=float("nan")), "d_initial=nan"),
        (lambda: methods.SoRA(rank=0), "rank=0"),
        (lambda: adapted(methods.AllocatingLoRA(rank=4, spare=4)), "rank=8"),
    ],
)
def test_bad_hyperparameters(bad, match):
    with pytest.raises(ValueError, match=f"Received: .*{match}"):
        bad()


def test_masked_differences_stay_off():
    model, adapter = adapted(methods.DiffPruning(openness=0.5))
    mask = np.zeros((8, 7), "float32")
    mask[::3, ::2] = 1
    adapter.mask.assign(mask)
    model.compile(keras.optimizers.AdamW(1e-3), "mse")
    model.fit(X, Y, epochs=3, verbose=0)
    delta = numpy(adapter.delta(model.layers[0].base_kernel))
    np.testing.assert_array_equal(delta != 0, mask == 1)


def test_differences_start_at_the_base_in_training_as_well():
    layer = keras.layers.Dense(7)
    layer.build((None, 8))
    before = numpy(layer(X))
    ksa.enable(layer, methods.DiffPruning())
    np.testing.assert_array_equal(numpy(layer(X, training=True)), before)
    np.testing.assert_array_equal(numpy(layer(X)), before)
    v = layer.adapter().numpy_values()[0]
    z = np.clip(3 / (1 + np.exp(-v.log_alpha)) - 1.5, 0, 1)
    assert (z == 1).all(), "all gates are open"
