"""QA-LoRA: groups of inputs, and their sum with grouped integers."""

import keras
import numpy as np
import pytest
from cases import KERNELS, batch, build_layer, numpy, shake
from keras.quantizers import Int4QuantizationConfig

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.kernels.quantized import stored_weights


@pytest.mark.parametrize("kernel", ["tall", "btd,ndh->btnh"])
def test_groups_of_one_input_are_lora(kernel):
    """The same start, the same outputs after a move, and the same changed kernel: bit for bit."""
    build, shape = KERNELS[kernel]
    x, found = batch(shape), []
    for method in (ksa.LoRA(rank=3, alpha=6), methods.QALoRA(rank=3, alpha=6, group=1)):
        layer = build_layer(build)
        model = keras.Sequential([keras.Input(shape[1:]), layer])
        keras.utils.set_random_seed(3)
        ksa.enable(model, method, targets=layer.name)
        start = {name: numpy(array) for name, array in layer.adapter().trained.items()}
        shake(model)
        found.append([*start.values(), numpy(model(x)), numpy(layer.merged_kernel())])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_of_a_group_change_alike():
    layer = keras.layers.Dense(6)
    model = keras.Sequential([keras.Input((12,)), layer])
    ksa.enable(model, methods.QALoRA(rank=2, group=4), targets=layer.name)
    before = numpy(layer.kernel)
    shake(model)
    change = (numpy(layer.merged_kernel()) - before).reshape(3, 4, 6)
    np.testing.assert_allclose(change, np.tile(change[:, :1], (1, 4, 1)), rtol=0, atol=1e-6)
    assert np.abs(change).max() > 1e-3


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"rank": 2, "group": 5}, r"`group` must divide m=24.*`group=4` or `group=6`.*group=5"),
        ({"rank": 4, "group": 8}, r"rank 3 at the most: use `rank=3` or less, a smaller `group`"),
        ({"rank": 1, "group": 0}, "positive integer"),
    ],
)
def test_what_groups_refuse(how, told):
    model = keras.Sequential([keras.Input((24,)), keras.layers.Dense(16, name="inner")])
    with pytest.raises(ValueError, match=told):
        ksa.enable(model, methods.QALoRA(**how), targets="inner")
    assert len(model.weights) == 2


@pytest.mark.parametrize("steps", [1.0, 0.3])
def test_zero_points_take_whole_steps_and_lose_less_than_half_a_step(steps):
    """Keras stores zero points as integers: they take the change only if it is whole steps."""
    if not hasattr(Int4QuantizationConfig(), "block_size"):
        pytest.skip("This Keras has no groups")
    layer = keras.layers.Dense(6)
    model = keras.Sequential([keras.Input((32,)), layer])
    rng = np.random.default_rng(2)
    columns = [rng.permutation(np.arange(-8, 8)) for _ in range(12)]
    K = np.stack(columns, axis=1).reshape(16, 2, 6).transpose(1, 0, 2).reshape(32, 6)
    layer.kernel.assign(K / 8)
    layer.quantize("int4", config=Int4QuantizationConfig(block_size=16))
    before = {name: numpy(array) for name, array in stored_weights(layer).items()}
    ksa.enable(model, methods.QALoRA(rank=2, group=16), targets=layer.name)
    change = rng.integers(-1, 2, (2, 6))
    change[0, 0] = 1
    layer.adapter().trained["lora_a"].assign(np.eye(2))
    layer.adapter().trained["lora_b"].assign(16 * steps * change / 8)  # of a sum over 16 inputs
    wanted = K / 8 + steps * np.repeat(change, 16, axis=0) / 8
    np.testing.assert_allclose(numpy(layer.merged_kernel()), wanted, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="quantized.*float.*requantize"):
        ksa.merge(model)
    (told,) = ksa.merge(model, quantized="requantize").kernels
    if steps == 1:
        assert told.lost < 1e-4
        now = {name: numpy(array) for name, array in stored_weights(layer).items()}
        np.testing.assert_array_equal(now["kernel"], before["kernel"])
        np.testing.assert_array_equal(now["kernel_zero"], before["kernel_zero"] - change)
    else:
        np.testing.assert_allclose(told.lost, 1, atol=1e-3)
    ksa.unmerge(model)
    ksa.merge(model, quantized="float")
    np.testing.assert_allclose(numpy(layer.kernel), wanted, rtol=0, atol=1e-6)
