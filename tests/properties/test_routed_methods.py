"""Methods with a router, against float64 closed forms, and where they are LoRA."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import (
    adapted,
    arrays_of,
    batch,
    build_layer,
    close,
    dense,
    method_kernel_pairs,
    numpy,
    shake,
)
from closed_forms_routed import chosen, gates, probabilities, softmax
from routed_table import ROUTED
from snapshots import refused

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.methods.routed.router import top_share

EXPERTS = [methods.HydraLoRA, methods.MoLoRA, methods.MoLA]


@pytest.mark.parametrize(
    ("case", "build", "shape"), method_kernel_pairs(variants=True, table=ROUTED)
)
def test_against_closed_form(case, build, shape):
    base = build_layer(build)
    base.activation = keras.activations.get("linear")
    bias = 0 if base.bias is None else base.bias.numpy().astype("float64")
    kernel = base.kernel.numpy().astype("float64")
    layer = adapted(case, base)
    shake(layer)
    adapter, values = arrays_of(layer)
    x = batch(shape)
    rows = numpy(adapter.view.flatten_input(keras.ops.convert_to_tensor(x)))
    K, rows = adapter.view.to_matrix(kernel), rows.reshape(-1, adapter.view.m).astype("float64")
    expected, slopes = case.reference(K, case.method, values, rows, shape[0])

    y = numpy(layer(x))
    columns = numpy(adapter.view.flatten_output(keras.ops.convert_to_tensor(y - bias)))
    close(columns.reshape(len(rows), -1), expected, 1e-5)
    g = batch(y.shape, seed=4)
    G = numpy(adapter.view.flatten_output(keras.ops.convert_to_tensor(g)))
    found = gradients(layer, x, g)
    assert len(found) == len(adapter.trained)
    slopes = slopes(G.reshape(len(rows), -1))
    for weight, gradient in zip(layer.trainable_weights, found, strict=True):
        close(gradient, slopes[weight.name], 2e-5)


@pytest.mark.parametrize("case", ROUTED.values(), ids=ROUTED)
def test_a_convolution_of_one_pixel_is_a_dense_layer(case):
    """A router of a convolution weighs the experts for each patch."""
    plain, image = keras.layers.Dense(24), keras.layers.Conv2D(24, 1)
    plain.build((None, 8))
    image.build((None, 5, 4, 8))
    image.kernel.assign(numpy(plain.kernel)[None, None])
    for layer in (plain, image):
        ksa.enable(layer, case.method, targets=lambda site: True)
    one, other = (adapters_of(layer)["default"].arrays for layer in (plain, image))
    for place, (name, array) in enumerate(one.items()):
        values = array + 0.1 * batch(tuple(array.shape), seed=place)
        for each in (array, other[name]):
            each.assign(values)
    x = batch((2, 5, 4, 8))
    close(numpy(image(x)), numpy(plain(x)), 1e-5)


@pytest.mark.parametrize("method", EXPERTS)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
def test_one_expert_is_lora(method, dtype):
    one = {"top_k": 1} if method is methods.MoLA else {}
    layers = []
    for each in (method(rank=3, alpha=7, experts=1, **one), ksa.LoRA(rank=3, alpha=7)):
        layer = build_layer(dense(12, 40)[0], dtype)
        ksa.enable(layer, each)
        for name, array in adapters_of(layer)["default"].arrays.items():
            array.assign(batch(tuple(array.shape), seed=len(name)))
        arrays = adapters_of(layer)["default"].arrays
        arrays["lora_b"].assign(batch((3, 40), seed=1))
        layers.append(layer)
    x = batch((5, 12))
    np.testing.assert_array_equal(*(numpy(layer(x)) for layer in layers))


@pytest.mark.parametrize("method", EXPERTS)
def test_equal_experts_are_lora_for_any_gate(method):
    mixed, lora = (build_layer(dense(12, 40)[0]) for _ in range(2))
    ksa.enable(mixed, method(rank=3, experts=4, alpha=6))
    ksa.enable(lora, ksa.LoRA(rank=3, alpha=6))
    shake(mixed)
    A, B = batch((12, 3)), batch((3, 40), seed=4)
    own, plain = (adapters_of(layer)["default"].arrays for layer in (mixed, lora))
    plain["lora_a"].assign(A)
    plain["lora_b"].assign(B)
    own["lora_a"].assign(np.tile(A, own["lora_a"].shape[1] // 3))
    own["lora_b"].assign(np.tile(B, (4, 1)))
    own["gate"].assign(3 * batch((12, 4), seed=5))
    x = batch((6, 12))
    close(numpy(mixed(x)), numpy(lora(x)), 1e-5)


def test_a_whole_pool_of_equal_choices_is_lora():
    pool, lora = (build_layer(dense(12, 40)[0]) for _ in range(2))
    ksa.enable(pool, methods.LoRAPool(rank=3, pool=3, alpha=6))
    ksa.enable(lora, ksa.LoRA(rank=3, alpha=6))
    own, plain = (adapters_of(layer)["default"].arrays for layer in (pool, lora))
    for seed, name in enumerate(("lora_a", "lora_b")):
        for arrays in (own, plain):
            arrays[name].assign(batch(tuple(arrays[name].shape), seed=seed))
    own["gate"].assign(np.zeros((12, 3)))
    x = batch((2, 6, 12))
    close(numpy(pool(x)), numpy(lora(x)), 1e-5)


def test_a_pool_chooses_by_the_mean_of_a_sample():
    """The choice by hand: two samples of two rows, whose means point at other updates."""
    layer = keras.layers.Dense(4, use_bias=False)
    layer.build((None, None, 4))
    layer.kernel.assign(np.zeros((4, 4)))
    ksa.enable(layer, methods.LoRAPool(rank=1, pool=4))
    for name in ("lora_a", "lora_b", "gate"):
        adapters_of(layer)["default"].arrays[name].assign(np.eye(4))
    x = np.array([[[3, 0, 0, 1], [-1, 0, 1, 2]], [[0, 1, 5, 0], [0, 9, -2, 0]]], "float32")
    p = softmax(np.array([[1, 0, 0.5, 1.5], [0, 5, 1.5, 0]]))  # of the means
    chosen_alone = p * np.array([[0, 0, 0, 1], [0, 1, 0, 0]])
    np.testing.assert_allclose(numpy(layer(x)), x * chosen_alone[:, None], atol=1e-6)
    sites = ksa.observe(layer, x, "expert_load", targets=lambda site: True)
    (found,) = sites.values()
    np.testing.assert_allclose(found.expert_load.gate, chosen_alone.mean(axis=0), atol=1e-6)


def test_the_load_of_experts():
    """The report against the gates, without rows of padding."""
    words = keras.layers.Embedding(9, 5, mask_zero=True, name="words")
    layers = [keras.layers.Dense(n, name=name) for n, name in ((5, "up"), (3, "down"))]
    model = keras.Sequential([keras.Input((4,), dtype="int32"), words, *layers])
    routed = {"up": methods.MoLA(rank=2, experts=3, top_k=2), "down": methods.HydraLoRA(rank=1)}
    ksa.enable(model, targets=routed)
    layers[0].adapter().gate.assign(3 * batch((5, 3)))
    ids = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    report = ksa.observe(model, ids, "expert_load")
    rows = numpy(words.embeddings)[[1, 2, 3, 4, 5]].astype("float64")
    gate = numpy(layers[0].adapter().gate).astype("float64")
    g, _ = gates(rows, {"gate": gate}, 2)
    load = report["up"].expert_load
    assert load.rows == 5
    np.testing.assert_allclose(load.gate, g.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(load.used, (g > 0).mean(axis=0))
    np.testing.assert_allclose(load.share, np.eye(3)[g.argmax(axis=1)].mean(axis=0))
    assert report["down"].expert_load.used.tolist() == [1, 1, 1, 1]
    assert f"{load.share[0]:.0%} ({load.gate[0]:.2f})" in str(report)
    assert "expert 3" in str(report)


def test_the_load_without_a_router():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, name="up")])
    ksa.enable(model, ksa.LoRA(rank=1), targets="up")
    with refused(model, "measures a router, and this adapter has none.*LoRA"):
        ksa.observe(model, batch((4, 5)), "expert_load")
    ksa.set_adapter(model, None)
    with refused(model, "this kernel computes without one"):
        ksa.observe(model, batch((4, 5)), "expert_load", targets="up")


def router_of_mola(gate, **how):
    layer = keras.layers.Dense(6)
    layer.build((None, gate.shape[0]))
    ksa.enable(layer, methods.MoLA(rank=2, experts=gate.shape[1], balance=1.0, **how))
    adapters_of(layer)["default"].gate.assign(gate)
    return layer


def balance(layer, x):
    layer(x, training=True)
    (loss,) = layer.losses
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    return float(numpy(loss))


def test_the_balance_is_one_for_an_equal_load():
    """Each expert gets two of the rows, with symmetric probabilities."""
    layer = router_of_mola(np.eye(4), top_k=1)
    assert balance(layer, np.tile(np.eye(4), (2, 1))) == pytest.approx(1.0)
    p = np.exp(1) / (np.exp(1) + 3)
    assert balance(layer, np.eye(4)[[0, 0, 0]]) == pytest.approx(4 * p)


def test_the_balance_against_its_equation():
    gate, x = batch((6, 4)), batch((3, 5, 6), seed=4)
    layer = router_of_mola(gate)
    rows = x.reshape(-1, 6)
    p = probabilities(rows.astype("float64"), {"gate": gate})
    expected = 4 * np.sum(chosen(p, 2).mean(axis=0) / 2 * p.mean(axis=0))
    assert balance(layer, x) == pytest.approx(expected, rel=1e-5)


def test_a_tie_chooses_as_many():
    probabilities = keras.ops.full((5, 4), 0.25)
    np.testing.assert_array_equal(numpy(top_share(probabilities, 3)).sum(axis=-1), np.full(5, 3))


BAD = {
    "experts": lambda: methods.HydraLoRA(experts=0),
    "dropout": lambda: methods.MoLoRA(dropout=1.0),
    "top_k": lambda: methods.MoLA(experts=2, top_k=3),
    "balance": lambda: methods.MoLA(balance=-1.0),
    "rank": lambda: methods.LoRAPool(rank=3, pool=2),
    "side": lambda: methods.MoV(side="input"),
}


def test_the_status_of_a_router_beside_a_start_away_from_the_base():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="a")])
    ksa.enable(model, ksa.LoRAXS(rank=2, init_std=0.1), targets="a", name="away")
    assert ksa.status(model).distances["a"] > 0
    ksa.enable(model, methods.HydraLoRA(rank=2), targets="a", name="routed")
    ksa.set_adapter(model, {"away": 1.0, "routed": 0.5})
    found = ksa.status(model)
    assert found.is_away
    assert not found.distances


@pytest.mark.parametrize("name", BAD)
def test_bad_hyperparameters(name):
    with pytest.raises(ValueError, match=f"Received: .*{name}"):
        BAD[name]()
