"""Outputs, gradients and merged kernels against float64 closed forms."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import (
    EVERY_METHOD,
    adapted,
    arrays_of,
    batch,
    build_layer,
    close,
    many_tokens_pairs,
    method_kernel_pairs,
    numpy,
    shake,
)


@pytest.mark.parametrize(("case", "build", "shape"), many_tokens_pairs())
def test_many_tokens_against_closed_form(case, build, shape):
    test_against_closed_form(case, build, (60, *shape[1:]))


@pytest.mark.parametrize(("case", "build", "shape"), method_kernel_pairs(variants=True))
def test_against_closed_form(case, build, shape):
    base = build_layer(build)
    base.activation = keras.activations.get("linear")
    bias = 0 if base.bias is None else base.bias.numpy().astype("float64")
    kernel = base.kernel.numpy()
    layer = adapted(case, base)
    shake(layer)
    adapter, values = arrays_of(layer)
    K = adapter.view.to_matrix(kernel.astype("float64"))
    expected_kernel, expected_gradients = case.reference(K, case.method, values)

    x = batch(shape)
    y = numpy(layer(x))
    rows = numpy(adapter.view.flatten_input(keras.ops.convert_to_tensor(x))).reshape(-1, len(K))
    expected_rows = rows.astype("float64") @ expected_kernel
    expected = adapter.view.unflatten_output(
        keras.ops.convert_to_tensor(expected_rows.reshape(*shape[: 2 - (len(shape) == 2)], -1))
    )
    close(y, numpy(expected) + bias, 1e-5)

    g = batch(y.shape, seed=4)
    columns = numpy(adapter.view.flatten_output(keras.ops.convert_to_tensor(g)))
    G = rows.T.astype("float64") @ columns.reshape(len(rows), -1)
    found = gradients(layer, x, g)
    assert len(found) == len(adapter.trained)
    for weight, gradient in zip(layer.trainable_weights, found, strict=True):
        close(gradient, expected_gradients(G)[weight.name], 1e-5)

    merged = numpy(layer.merged_kernel())
    assert merged.shape == kernel.shape
    close(adapter.view.to_matrix(merged), expected_kernel, 1e-5)
    close(numpy(base.kernel), merged, 1e-5)


@pytest.mark.parametrize(
    ("case", "build", "shape", "dtype"),
    method_kernel_pairs(dtypes=["mixed_bfloat16", "bfloat16"], table=EVERY_METHOD),
)
def test_low_precision_gradients_point_the_right_way(case, build, shape, dtype):
    exact, rough = (adapted(case, build_layer(build, d)) for d in ("float32", dtype))
    one, other = (layer.base_layer.adapter() for layer in (exact, rough))
    for name, array in one.declared.items():
        if array.in_file and not array.shared:
            other.arrays[name].assign(one.arrays[name])
    x = batch((30, *shape[1:]))
    g = batch(tuple(exact(x).shape), seed=4)
    for expected, found in zip(gradients(exact, x, g), gradients(rough, x, g), strict=True):
        assert found.dtype == np.float32
        expected, found = expected.ravel(), found.ravel()
        if np.any(expected):
            cosine = expected @ found / np.linalg.norm(expected) / np.linalg.norm(found)
            assert cosine > 0.99
        else:
            assert not np.any(found)
