"""Adapters on layers whose kernels Keras quantized."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import KERNELS, METHODS, batch, numpy, shake
from keras.quantizers import Int4QuantizationConfig

import keras_svd_adapters as ksa
from keras_svd_adapters.host import attach, base_value
from keras_svd_adapters.quantized import mode_of
from keras_svd_adapters.site import find_sites

MODES = {
    "int8": ("int8", None),
    "int4": ("int4", Int4QuantizationConfig(block_size=None)),
    "int4 grouped": ("int4", Int4QuantizationConfig(block_size=8)),
}
TOLERANCE = {"int8": 2e-2, "int4": 5e-2}
SOME = ("tall", "wide", "btd,ndh->btnh", "btnh,nhd->btd")
CASES = {
    name: case
    for name, case in METHODS.items()
    if case.exact_at_start and not case.square_only and name != "token_rows"
}


def quantized(kernel, mode, dtype="float32"):
    """A quantized layer, and an input."""
    build, shape = KERNELS[kernel]
    layer = build(dtype)
    layer.kernel.assign(batch(layer.kernel.shape, seed=5))
    if layer.bias is not None:
        layer.bias.assign(batch(layer.bias.shape, seed=6))
    how, config = MODES[mode]
    layer.quantize(how, config=config)
    return layer, batch(shape)


def dequantized(kernel, layer):
    """The float layer that the quantized one stands for."""
    build, _ = KERNELS[kernel]
    plain = build("float32")
    plain.kernel.assign(base_value(layer))
    if plain.bias is not None:
        plain.bias.assign(numpy(layer.bias))
    return plain


def norm(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", SOME)
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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", SOME)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs_and_gradients(case, kernel, mode):
    layer, x = quantized(kernel, mode)
    plain = dequantized(kernel, layer)
    before = numpy(layer(x))
    ksa.enable(layer, case.method, targets=[layer.name])
    np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer)
    ksa.enable(plain, case.method, targets=[plain.name])
    ours = layer.adapter()
    assert ours.compute_dtype == "float32"
    reference = plain.adapter()
    if ours.method.needs_svd:  # its form may be another one: give it the same values
        ksa.delete_adapter(plain, "default")
        (site,) = find_sites(plain)
        values = {name: numpy(v) for name, v in ours.arrays.items()}
        for weight in plain.weights:
            weight.trainable = False
        attach(plain, "default", site.new_adapter(ours.method, ours.form, "default", values))
    else:
        for name, variable in ours.arrays.items():
            getattr(reference, name).assign(variable)
    tolerance = TOLERANCE[mode_of(layer)]
    y, expected = numpy(layer(x)), numpy(plain(x))
    assert norm(y, expected) < tolerance
    g = batch(y.shape, seed=9)
    for found, right in zip(gradients(layer, x, g), gradients(plain, x, g), strict=True):
        assert norm(found, right) < tolerance
    np.testing.assert_allclose(
        numpy(layer.merged_kernel()), numpy(plain.merged_kernel()), rtol=0, atol=1e-5
    )
