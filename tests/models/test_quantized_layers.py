"""Adapters on layers whose kernels Keras quantized: outputs and gradients are those of floats."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import EVERY_METHOD, batch, combinations, numpy, shake
from quantized_layers import (
    MODES,
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
    for name, kernel, mode in combinations(CASES, SOME, MODES)
]


@pytest.mark.parametrize(("kernel", "mode"), combinations(SOME, MODES))
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
    combinations(BESIDE, MODES, ["mixed_bfloat16", "bfloat16"]),
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
