"""NF4: codes, scales and their bytes."""

import numpy as np
import pytest
from keras import ops

from keras_svd_adapters.kernels import nf4

pytestmark = pytest.mark.backend_free("arrays on the host, and four operations")
SHAPES = [(64, 24), (40, 12), (7, 3), (128, 300)]


def kernel(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def floats(stored, shape, dtype="float32"):
    tensors = {name: ops.convert_to_tensor(value) for name, value in stored.items()}
    found = nf4.dequantize(tensors, shape[::-1], dtype)
    return ops.convert_to_numpy(ops.cast(ops.transpose(found), "float32"))


def reference(K, block, double):
    """The same, value by value."""
    values = K.T.ravel()
    scales = [np.abs(values[i : i + block]).max() for i in range(0, len(values), block)]
    used = np.array(scales, "float64")
    if double:
        mean, used = used.mean(), used - used.mean()
        for i in range(0, len(used), nf4.GROUP):
            largest = np.abs(used[i : i + nf4.GROUP]).max()
            for j in range(i, min(i + nf4.GROUP, len(used))):
                codes = nf4.SCALE_CODES.astype("float64") * largest
                used[j] = codes[np.abs(codes - used[j]).argmin()]
        used = used + mean
    found = np.empty(len(values))
    for i, value in enumerate(values):
        code = nf4.CODES[np.abs(nf4.CODES * scales[i // block] - value).argmin()]
        found[i] = code * used[i // block]
    return found.reshape(K.T.shape).T


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("block", [64, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_floats_are_those_of_the_equation(shape, block, double):
    K = kernel(shape)
    stored = nf4.quantize(K, block, double)
    assert {name: a.shape for name, a in stored.items()} == nf4.shapes(*shape, block, double)
    np.testing.assert_allclose(floats(stored, shape), reference(K, block, double), atol=1e-6)
    half = floats(stored, shape, "bfloat16")
    np.testing.assert_allclose(half, floats(stored, shape), rtol=1e-2, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_error_is_at_most_half_a_gap(shape):
    K = kernel(shape)
    error = np.abs(floats(nf4.quantize(K, 64, double=False), shape) - K).T.ravel()
    assert np.diff(nf4.CODES).max() / 2 < 0.1520
    for i in range(0, K.size, 64):
        bound = 0.1520 * np.abs(K.T.ravel()[i : i + 64]).max()
        assert error[i : i + 64].max() <= bound


def test_codes_survive_a_round_trip():
    """Also those that no other value shares a byte with, and those of a kernel of zeros."""
    codes = np.random.default_rng(1).integers(0, 16, (32, 64))
    codes[:, 0] = 15  # the largest value of each block
    scale = np.random.default_rng(2).uniform(0.1, 9, (32, 1)).astype("float32")
    K = (nf4.CODES[codes] * scale).T
    stored = nf4.quantize(K, 64, double=False)
    packed = stored[nf4.CODES_OF_KERNEL].reshape(32, 32)
    np.testing.assert_array_equal(packed >> 4, codes[:, ::2])
    np.testing.assert_array_equal(packed & 15, codes[:, 1::2])
    np.testing.assert_array_equal(stored[nf4.SCALE], scale[:, 0])
    np.testing.assert_array_equal(floats(stored, K.shape), K)
    for double in (False, True):
        zeros = nf4.quantize(np.zeros((64, 8), "float32"), 64, double)
        np.testing.assert_array_equal(floats(zeros, (64, 8)), 0)


@pytest.mark.parametrize(("double", "bits"), [(True, 4.127), (False, 4.5)])
def test_bits_of_a_value(double, bits):
    stored = nf4.quantize(kernel((512, 1024)), 64, double)
    found = 8 * sum(value.nbytes for value in stored.values()) / (512 * 1024)
    assert round(found, 3) == bits


def test_a_kernel_of_the_normal_distribution_has_the_known_error():
    K = kernel((512, 512))
    error = floats(nf4.quantize(K, 64, double=True), K.shape) - K
    relative = np.linalg.norm(error) / np.linalg.norm(K)
    assert 0.08 < relative < 0.1
    larger = floats(nf4.quantize(K, 4096, double=True), K.shape) - K
    assert np.linalg.norm(larger) > np.linalg.norm(error)


def test_values_that_are_not_finite_are_refused():
    K = kernel((64, 8))
    K[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite.*Received"):
        nf4.quantize(K, 64, double=True)
