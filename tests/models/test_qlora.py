"""QLoRA: models with NF4 kernels, with and without adapters, train, are saved and load."""

import copy
import pickle

import keras
import models
import numpy as np
import pytest
from autodiff import gradients
from cases import KERNELS, batch, numpy, shake
from quantized_layers import language_model, norm, quantized, tokens

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.kernels.quantized import mode_of
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.runtime.host_values import to_host_exact

backend_free = pytest.mark.backend_free("whole models of layers that each backend tests")


def causal_task():
    keras.utils.set_random_seed(4)
    return models.gemma(num_layers=1, num_key_value_heads=1)


def small():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(10, name="in"), keras.layers.Dense(3, name="out")]
    return keras.Sequential([keras.Input((40,)), *layers])


def check_equal(one, other, x):
    for now, then in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(to_host_exact(now), to_host_exact(then))
    np.testing.assert_array_equal(numpy(one(x)), numpy(other(x)))


def test_qlora_from_end_to_end(tmp_path):
    model, x = causal_task(), tokens()
    floats = model.get_weights()
    before = numpy(model(x))
    report = ksa.quantize(model, "nf4", verbose=0)
    assert "error of nf4" in str(report)
    assert all(0.05 < kernel.error < 0.12 for kernel in report.kernels)
    plain = numpy(model(x))
    assert 0 < norm(plain, before) < 0.3
    kernels = [site.layer for site in find_sites(model) if not site.host.is_lookup]
    assert {mode_of(layer) for layer in kernels} == {"nf4"}
    assert not [w.path for w in model.weights if w.path.endswith("kernel")]
    ksa.enable(model, ksa.LoRA(rank=4))
    np.testing.assert_array_equal(numpy(model(x)), plain)
    frozen = {w.path: to_host_exact(w) for w in model.non_trainable_weights}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, sampler="greedy")
    y = np.roll(x["token_ids"], -1, axis=1)
    losses = model.fit(x, y, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    for weight in model.non_trainable_weights:
        np.testing.assert_array_equal(to_host_exact(weight), frozen[weight.path])
    expected = numpy(model(x))
    ksa.save_adapter(model, tmp_path / "adapter.keras")
    prompt = x | {"padding_mask": np.tile(np.arange(12) < 4, (4, 1)).astype("int32")}
    written = model.generate(prompt, stop_token_ids=None)["token_ids"]
    again = causal_task()
    again.set_weights(floats)
    ksa.quantize(again, "nf4", verbose=0)
    ksa.load_adapter(again, tmp_path / "adapter.keras")
    np.testing.assert_array_equal(numpy(again(x)), expected)
    again.compile(sampler="greedy")
    np.testing.assert_array_equal(again.generate(prompt, stop_token_ids=None)["token_ids"], written)


@backend_free
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("build", [small, causal_task, lambda: models.classifier()[0]])
def test_a_model_is_saved_and_copied(build, adapted, tmp_path):
    model = build()
    x = batch((5, 40)) if build is small else tokens()
    if build is not small:
        x = {name: x.get(name, np.zeros_like(x["token_ids"])) for name in model.input}
    ksa.quantize(model, "nf4", config=ksa.NF4Config(32, double=False), verbose=0)
    if adapted:
        ksa.enable(model, ksa.SVFT(pattern="banded", d=1))
        shake(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    check_equal(loaded, model, x)
    check_equal(copy.deepcopy(model), model, x)
    check_equal(pickle.loads(pickle.dumps(model)), model, x)
    rebuilt = type(model).from_config(model.get_config())
    model.save_weights(tmp_path / "a.weights.h5")
    rebuilt.load_weights(tmp_path / "a.weights.h5")
    check_equal(rebuilt, model, x)
    configs = {site.layer.kernel_storage.config for site in find_sites(rebuilt) if is_nf4(site)}
    assert configs == {ksa.NF4Config(32, double=False)}


def is_nf4(site):
    return mode_of(site.layer) == "nf4"


@backend_free
def test_a_part_is_quantized_and_the_head_trains(tmp_path):
    model, backbone, x = models.classifier()
    ksa.quantize(backbone, "nf4", verbose=0)
    assert not is_nf4(next(s for s in find_sites(model) if s.name == "head"))
    ksa.enable(backbone, ksa.LoRA(rank=2))
    ksa.enable(model, ksa.LoRA(rank=2), targets="query", train="head", name="other")
    shake(model)
    expected = numpy(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), expected)
    ksa.delete_adapter(model, "other")
    ksa.delete_adapter(model, "default")
    assert {mode_of(s.layer) for s in find_sites(backbone)} == {"nf4", None}


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gradient_is_that_of_the_floats(kernel):
    layer, x = quantized(kernel, "nf4")
    plain = KERNELS[kernel][0]("float32")
    plain.kernel.assign(base_kernel_value(layer))
    if plain.bias is not None:
        plain.bias.assign(layer.bias)
    first = keras.layers.Dense(x.shape[-1])
    found = []
    for each in (layer, plain):
        each.trainable = False
        model = keras.Sequential([keras.Input(x.shape[1:]), first, each])
        y = numpy(model(x))
        found.append((y, *gradients(model, x, batch(y.shape, seed=9))))
    for ours, theirs in zip(*found, strict=True):
        assert norm(ours, theirs) < 1e-5
    np.testing.assert_allclose(numpy(layer.kernel), numpy(plain.kernel), rtol=0, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="asks PyTorch what it stores")
def test_a_step_stores_no_float_kernel():
    import torch

    model, _ = language_model("nf4")
    ksa.enable(model, ksa.LoRA(rank=2))
    shapes = {s.view.matrix_shape for s in find_sites(model) if is_nf4(s)}
    shapes |= {shape[::-1] for shape in shapes}
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    x = {name: value[:3, :5] for name, value in tokens().items()}  # 15 rows, as no kernel has
    with hooks:
        model(x, training=True)
    assert len(kept) > 10
    found = {tuple(t.shape) for t in kept if t.dtype.is_floating_point}
    assert not found & shapes


@backend_free
def test_what_nf4_refuses(tmp_path):
    model, floats = small(), small()
    floats.save_weights(tmp_path / "floats.weights.h5")
    ksa.quantize(model, "nf4", verbose=0)
    with pytest.raises(ValueError, match="cannot be cloned alone.*Received"):
        keras.models.clone_model(model)
    with pytest.raises(ValueError, match="same NF4 storage.*Received"):
        model.load_weights(tmp_path / "floats.weights.h5")
    with pytest.raises(ValueError, match="no longer known.*Received: .*nf4"):
        ksa.quantize(model, "nf4", ksa.LoRA(rank=2))
    backbone, _ = models.llama(num_layers=1)
    ksa.quantize(backbone, "nf4", verbose=0)
    with pytest.raises(ValueError, match="preset cannot hold NF4.*Received"):
        backbone.save_to_preset(tmp_path / "preset")
    tables = keras.Sequential([keras.Input((3,)), keras.layers.Embedding(5, 4)])
    with pytest.raises(ValueError, match="there is none.*Received: <Sequential"):
        ksa.quantize(tables, "nf4")
    for wrong in (0, 3, 2.0, True):
        with pytest.raises(ValueError, match="even integer.*Received"):
            ksa.NF4Config(wrong)
    floats.layers[1].kernel.assign(np.full((10, 3), np.inf, "float32"))
    with pytest.raises(ValueError, match="NaN or infinite.*Received"):
        ksa.quantize(floats, "nf4")
    assert [w.name for w in floats.weights] == ["kernel", "bias"] * 2


@backend_free
def test_a_kernel_that_is_no_matrix_stays():
    each = keras.layers.EinsumDense("axh,xhd->axd", output_shape=(4, 5), name="each")
    model = keras.Sequential([keras.Input((4, 6)), each, keras.layers.Dense(8, name="up")])
    report = ksa.quantize(model, "nf4", verbose=0)
    assert [kernel.path for kernel in report.kernels] == ["up"]
    assert [mode_of(layer) for layer in model.layers] == [None, "nf4"]
    assert model(batch((2, 4, 6))).shape == (2, 4, 8)


@backend_free
def test_merging_to_floats_leaves_a_plain_model():
    model, x = small(), batch((5, 40))
    ksa.quantize(model, "nf4", verbose=0)
    ksa.enable(model, ksa.LoRA(rank=2), targets=["in", "out"])
    shake(model)
    expected = numpy(model(x))
    ksa.merge(model, quantized="float")
    assert type(model) is keras.Sequential
    assert {type(layer) for layer in model.layers} == {keras.layers.Dense}
    np.testing.assert_allclose(numpy(model(x)), expected, rtol=0, atol=1e-5)
    ksa.unmerge(model)
    ksa.delete_adapter(model, "default")
    again = type(model).from_config(model.get_config())
    assert {mode_of(layer) for layer in again.layers} == {"nf4"}
