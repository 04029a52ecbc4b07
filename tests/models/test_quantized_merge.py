"""Adapters merged into quantized kernels: to floats, or to integers again."""

import importlib

import keras
import numpy as np
import pytest
from cases import batch, combinations, numpy, shake
from quantized_layers import (
    FEW,
    IN_LAYERS,
    MODES,
    TOLERANCE,
    dequantized,
    language_model,
    norm,
    quantized,
    tokens,
)

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.kernels.quantized import mode_of
from keras_svd_adapters.runtime.host_values import to_host_exact

backend_free = pytest.mark.backend_free("whole models of layers that each backend tests")


@pytest.mark.parametrize(
    ("method", "kernel", "mode"),
    combinations([ksa.DoRA(rank=2), ksa.SVF()], FEW, IN_LAYERS),
    ids=str,
)
def test_integers_merge_to_floats(method, kernel, mode):
    layer, x = quantized(kernel, mode)
    plain = dequantized(kernel, layer)
    order, before = [w.name for w in plain.weights], [to_host_exact(w) for w in layer.weights]
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    ksa.enable(model, method, targets=[layer.name])
    shake(model)
    expected = numpy(model(x))
    wanted = numpy(layer.merged_kernel())
    report = ksa.merge(model, quantized="float")
    assert report.relative < 1e-5
    assert layer.quantization_mode is None
    assert layer.compute_dtype == "float32"
    assert [w.name for w in layer.weights] == order
    assert layer.kernel.trainable
    np.testing.assert_allclose(numpy(layer.kernel), wanted, rtol=0, atol=1e-6)
    assert norm(numpy(model(x)), expected) < TOLERANCE[mode.split()[0]]
    again = keras.Sequential.from_config(model.get_config())
    again.build(model.input_shape)
    again.set_weights(model.get_weights())
    np.testing.assert_allclose(numpy(again(x)), numpy(model(x)), rtol=0, atol=1e-6)
    ksa.unmerge(model)
    np.testing.assert_array_equal(numpy(model(x)), expected)
    ksa.delete_adapter(model, "default")
    assert mode_of(layer) == mode.split()[0]
    for now, then in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(to_host_exact(now), then)
    layer.quantized_call(x)


@pytest.mark.parametrize(("kernel", "mode"), combinations(FEW, MODES))
def test_integers_merge_to_integers(kernel, mode):
    layer, x = quantized(kernel, mode)
    before = [to_host_exact(w) for w in layer.weights]
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    ksa.enable(model, ksa.LoRA(rank=2), targets=[layer.name])
    shake(model, 0.5)
    wanted, expected = numpy(layer.merged_kernel()), numpy(model(x))
    report = ksa.merge(model, quantized="requantize")
    lost = norm(numpy(base_kernel_value(layer)), wanted)
    assert 0 < lost < {"int8": 0.01, "int4": 0.1, "nf4": 0.15}[mode_of(layer)]
    (told,) = report.kernels
    assert 0 < told.lost < 1
    assert told.relative < 0.2
    change = numpy(base_kernel_value(layer)) - wanted
    delta = wanted - base_of(before, layer)
    np.testing.assert_allclose(told.lost, np.linalg.norm(change) / np.linalg.norm(delta), rtol=1e-3)
    assert norm(numpy(model(x)), expected) < (0.08 if mode == "int8" else 0.2)
    ksa.unmerge(model)
    np.testing.assert_array_equal(numpy(model(x)), expected)
    ksa.merge(model, quantized="requantize", keep_base=False)
    with pytest.raises(ValueError, match="no merge to undo"):
        ksa.unmerge(model)


def base_of(values, layer):
    """The floats that a layer's weights stood for when they had these values."""
    now = [to_host_exact(w) for w in layer.weights]
    for weight, value in zip(layer.weights, values, strict=True):
        weight.assign(value)
    found = numpy(base_kernel_value(layer))
    for weight, value in zip(layer.weights, now, strict=True):
        weight.assign(value)
    return found


@backend_free
@pytest.mark.parametrize(
    ("mode", "how"),
    [("int8", "float"), ("int4", "requantize"), ("int4 grouped", "float"), ("nf4", "requantize")],
)
def test_a_quantized_language_model_is_merged_and_saved(mode, how, tmp_path):
    model, _ = language_model(mode)
    ksa.enable(model, ksa.LoRA(rank=2), targets="attention")
    shake(model, 0.02)
    x = tokens()
    expected = numpy(model(x))
    ksa.merge(model, quantized=how)
    merged = numpy(model(x))
    assert norm(merged, expected) < 0.2
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for now, then in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(to_host_exact(now), to_host_exact(then))
    # Keras loads the int4 table of an unadapted model with another activation quantizer, too.
    exact = 5e-2 if "int4" in mode else 1e-5
    np.testing.assert_allclose(numpy(loaded(x)), merged, rtol=0, atol=exact)
    ksa.unmerge(model)
    np.testing.assert_array_equal(numpy(model(x)), expected)


@backend_free
@pytest.mark.parametrize("mode", MODES)
def test_a_loaded_quantized_model_is_merged_and_unmerged(mode, tmp_path):
    """Its layers share one map of dtype policies."""
    model, _ = language_model(mode)
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    x = tokens()
    ksa.enable(model, ksa.LoRA(rank=2))
    shake(model, 0.02)
    expected = numpy(model(x))
    with pytest.raises(ValueError, match="Merging would change outputs"):
        ksa.merge(model, tolerance=1e-12, probe=x, quantized="float")
    np.testing.assert_array_equal(numpy(model(x)), expected)
    for how in ("float", "requantize"):
        ksa.merge(model, quantized=how)
        model(x)
        ksa.unmerge(model)
        np.testing.assert_array_equal(numpy(model(x)), expected)


FAILING = ["_sha256", "detach", "make_float", "requantized_kernel", "_assign"]


@pytest.mark.parametrize(("how", "what"), combinations(["float", "requantize"], FAILING))
def test_a_failed_merge_of_integers_leaves_the_model(how, what, monkeypatch):
    merging = importlib.import_module("keras_svd_adapters.merging.merge_record")
    layers = [keras.layers.Dense(6, name="a"), keras.layers.Dense(6, name="b")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.quantize("int8")
    ksa.enable(model, ksa.LoRA(rank=2), targets=["a", "b"])
    shake(model)
    x = batch((5, 8))
    expected, plain = numpy(model(x)), getattr(merging, what)
    calls = []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError
        return plain(*args, **kwargs)

    monkeypatch.setattr(merging, what, failing)
    try:
        ksa.merge(model, quantized=how)
    except MemoryError:
        monkeypatch.undo()
        np.testing.assert_array_equal(numpy(model(x)), expected)
        ksa.merge(model, quantized=how)
    ksa.unmerge(model)
    np.testing.assert_array_equal(numpy(model(x)), expected)


def test_want_of_memory_for_floats_leaves_the_model(monkeypatch):
    layer, x = quantized("tall", "int8")
    ksa.enable(layer, ksa.LoRA(rank=2), targets=[layer.name])
    shake(layer)
    expected = numpy(layer(x))

    def failing(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(layer, "add_weight", failing)
    with pytest.raises(MemoryError):
        ksa.merge(layer, quantized="float")
    np.testing.assert_array_equal(numpy(layer(x)), expected)


def test_a_layer_of_ours_tells_its_kernel_after_integers_were_merged():
    layer, _ = quantized("tall", "int8")
    wrapped = ksa.LoRADense(layer, rank=2)
    shake(wrapped)
    before = numpy(wrapped.merged_kernel())
    ksa.merge(wrapped, quantized="requantize")
    assert norm(numpy(wrapped.merged_kernel()), before) < 0.02
