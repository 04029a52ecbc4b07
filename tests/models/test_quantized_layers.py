"""Adapters on layers whose kernels Keras quantized: outputs and gradients are those of floats."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import EVERY_METHOD, batch, combinations, numpy, shake
from quantized_layers import (
    IN_LAYERS,
    TOLERANCE,
    dequantized,
    norm,
    quantized,
)

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.attachment import attach
from keras_svd_adapters.kernels.quantized import mode_of
from keras_svd_adapters.models.sites.search import find_sites

SOME = ("tall", "wide", "btd,ndh->btnh", "btnh,nhd->btd")
CASES = {
    name: case
    for name, case in EVERY_METHOD.items()
    if case.exact_at_start and not case.square_only and name != "token_rows"
}
ROWS = [
    pytest.param(CASES[name], kernel, mode, id=f"{name}-{kernel}-{mode}")
    for name, kernel, mode in combinations(CASES, SOME, IN_LAYERS)
]


@pytest.mark.parametrize(("kernel", "mode"), combinations(SOME, IN_LAYERS))
def test_the_float_kernel_is_what_the_layer_multiplies_with(kernel, mode):
    layer, x = quantized(kernel, mode)
    layer.activation = None
    if layer.bias is not None:
        layer.bias.assign(np.zeros(layer.bias.shape))
    (site,) = find_sites(layer)
    unit = numpy(site.view.unflatten_input(keras.ops.eye(site.view.m)))
    unit = unit.reshape(site.view.m, *(1,) * (x.ndim - unit.ndim), *unit.shape[1:])
    rows = numpy(site.view.flatten_output(layer(unit)))
    np.testing.assert_allclose(rows.reshape(site.view.m, -1), site.matrix(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("case", "kernel", "mode"), ROWS)
def test_outputs_and_gradients(case, kernel, mode):
    layer, x = quantized(kernel, mode)
    plain = dequantized(kernel, layer)
    before = numpy(layer(x))
    ksa.enable(layer, case.method, targets=[layer.name])
    np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer)
    ksa.enable(plain, case.method, targets=[plain.name])
    adapter = layer.adapter()
    assert adapter.compute_dtype == "float32"
    reference = plain.adapter()
    if adapter.method.needs_svd:  # its form may be another one: give it the same values
        ksa.delete_adapter(plain, "default")
        (site,) = find_sites(plain)
        values = {name: numpy(v) for name, v in adapter.arrays.items()}
        for weight in plain.weights:
            weight.trainable = False
        attach(plain, "default", site.new_adapter(adapter.method, adapter.form, "default", values))
    else:
        for name, variable in adapter.arrays.items():
            reference.arrays[name].assign(variable)
    tolerance = TOLERANCE[mode_of(layer)]
    y, expected = numpy(layer(x)), numpy(plain(x))
    assert norm(y, expected) < tolerance
    g = batch(y.shape, seed=9)
    for found, right in zip(gradients(layer, x, g), gradients(plain, x, g), strict=True):
        assert norm(found, right) < tolerance
    if not case.method.depends_on_input:
        merged = (numpy(each.merged_kernel()) for each in (layer, plain))
        np.testing.assert_allclose(*merged, rtol=0, atol=1e-5)


BESIDE = [ksa.LoRA(rank=2), ksa.DoRA(rank=2), ksa.SVF()]


@pytest.mark.parametrize(
    ("method", "mode", "dtype"),
    combinations(BESIDE, IN_LAYERS, ["mixed_bfloat16", "bfloat16"]),
    ids=str,
)
def test_integers_in_half_precision(method, mode, dtype):
    """An adapter of integer kernels computes in the dtype that the layer had."""
    layer, _ = quantized("tall", mode, dtype)
    plain = dequantized("tall", layer)
    x = batch((300, 40))
    before = layer(x)
    ksa.enable(layer, method, targets=[layer.name])
    np.testing.assert_array_equal(numpy(layer(x)), numpy(before))
    shake(layer)
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert {w.dtype for w in layer.trainable_weights} == {"float32"}
    (site,) = find_sites(plain)
    values = {name: numpy(v) for name, v in layer.adapter().arrays.items()}
    for weight in plain.weights:
        weight.trainable = False
    adapter = layer.adapter()
    attach(plain, "default", site.new_adapter(adapter.method, adapter.form, "default", values))
    assert norm(numpy(y), numpy(plain(x))) < 5e-2
    g = batch(y.shape, seed=9)
    for found, right in zip(gradients(layer, x, g), gradients(plain, x, g), strict=True):
        assert norm(found, right) < 5e-2


@pytest.mark.backend_free("whole models of layers that each backend tests")
@pytest.mark.parametrize("mode", ["gptq", "awq"])
def test_a_model_that_keras_calibrated_is_adapted(mode, tmp_path):
    """Before the data passed, it is refused. The file of the adapter fits the float model."""
    embedding, inner = keras.layers.Embedding(50, 6), keras.layers.Dense(5, name="inner")
    block = keras.Sequential([keras.Input((None, 6)), inner])
    model = keras.Sequential([keras.Input((4,), dtype="int32"), embedding, block])
    # Keras's GPTQ and AWQ go wrong for a group whose values have one sign.
    inner.kernel.assign(np.sin(np.arange(30)).reshape(6, 5))
    ids = np.random.default_rng(0).integers(0, 50, (16, 4)).astype("int32")
    floats = keras.models.clone_model(model)
    floats.set_weights(model.get_weights())
    kinds = {"gptq": keras.quantizers.GPTQConfig, "awq": keras.quantizers.AWQConfig}
    config = kinds[mode]([ids], len, num_samples=16, sequence_length=4, group_size=-1)
    structure = {"pre_block_layers": [embedding], "sequential_blocks": [block]}
    waiting = keras.layers.Dense(5, name="waiting")
    waiting.build((None, 6))
    waiting.quantize(mode, config=config)
    with pytest.raises(ValueError, match="not calibrated"):
        ksa.enable(waiting, ksa.LoRA(rank=2), targets="waiting")
    model.get_quantization_layer_structure = lambda mode: structure
    model.quantize(mode, config=config)
    before = numpy(model(ids))
    ksa.enable(model, ksa.LoRA(rank=2), targets="inner")
    np.testing.assert_array_equal(numpy(model(ids)), before)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    y = batch((16, 4, 5))
    losses = model.fit(ids, y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    ksa.save_adapter(model, tmp_path / "a.keras")
    expected = numpy(model(ids))
    with pytest.raises(ValueError, match=f"{mode} rounds with data.*requantize"):
        ksa.merge(model, quantized="requantize")
    ksa.merge(model, quantized="float")
    np.testing.assert_allclose(numpy(model(ids)), expected, rtol=0, atol=1e-5)
    with pytest.warns(UserWarning, match="The adapter was trained on .* kernels. These are"):
        ksa.load_adapter(floats, tmp_path / "a.keras")
    assert norm(numpy(floats(ids)), expected) < 0.3
