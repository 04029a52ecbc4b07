"""Convolutions carry every method: equal to the convolution with the merged kernel."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import METHODS, adapted, arrays_of, batch, build_layer, close, combinations, numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.adapter import Adapter

CHANNELS_FIRST = "channels_first"


def convolution(kind, filters, size, shape, **how):
    def build(dtype):
        layer = kind(filters, size, dtype=dtype, **how)
        layer.build((None, *shape))
        return layer

    return build, (2, *shape)


L = keras.layers
KERNELS = {
    "conv2d": convolution(L.Conv2D, 10, 3, (7, 6, 4), strides=2, padding="same", activation="relu"),
    "pointwise": convolution(L.Conv2D, 24, 1, (5, 4, 8)),
    "causal": convolution(L.Conv1D, 12, 4, (9, 5), padding="causal", dilation_rate=2),
    "conv3d": convolution(L.Conv3D, 6, 2, (4, 5, 4, 3), use_bias=False),
}
SOME = {
    "pointwise": {"dora", "svf", "svf_factored", "svft_banded", "svft_random"},
    "causal": {"lora", "svf"},
    "conv3d": {"lora", "svf"},
}
ROWS = [
    pytest.param(METHODS[name], *KERNELS[kernel], id=f"{name}-{kernel}")
    for name, kernel in combinations(
        [name for name, case in METHODS.items() if not case.square_only and not case.variant],
        KERNELS,
        fits=lambda name, kernel: name in SOME.get(kernel, METHODS),
    )
]


@pytest.mark.parametrize(("case", "build", "shape"), ROWS)
def test_against_the_convolution_with_the_merged_kernel(case, build, shape):
    base, plain = build_layer(build), build_layer(build)
    x = batch(shape)
    before = numpy(base(x))
    layer = adapted(case, base)
    if case.exact_at_start:
        np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer)
    adapter, values = arrays_of(layer)
    K = adapter.view.to_matrix(numpy(base.base_kernel).astype("float64"))
    expected, expected_gradients = case.reference(K, case.method, values)
    merged = numpy(layer.merged_kernel())
    close(adapter.view.to_matrix(merged), expected)

    plain.kernel.assign(merged)
    plain.trainable = True
    y = numpy(plain(x))
    close(numpy(layer(x)), y)
    g = batch(y.shape, seed=4)
    G = adapter.view.to_matrix(gradients(plain, x, g)[0].astype("float64"))
    found = gradients(layer, x, g)
    assert len(found) == len(adapter.trained)
    for weight, gradient in zip(layer.trainable_weights, found, strict=True):
        close(gradient, expected_gradients(G)[weight.name])


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVFT("banded", d=1)], ids=str)
def test_low_precision(method, dtype):
    build, shape = KERNELS["conv2d"]
    layer = build_layer(build, dtype)
    before = layer(batch(shape))
    ksa.enable(layer, method)
    after = layer(batch(shape))
    assert after.dtype == before.dtype
    np.testing.assert_array_equal(numpy(after), numpy(before))
    exact = build_layer(build)
    exact.kernel.assign(numpy(layer.base_kernel))
    exact.bias.assign(numpy(layer.bias))
    ksa.enable(exact, method)
    for ours, theirs in zip(layer.trainable_weights, exact.trainable_weights):
        theirs.assign(ours)
    shake(layer, 0.3)
    shake(exact, 0.3)
    rough, y = numpy(layer(batch(shape))), numpy(exact(batch(shape)))
    assert np.abs(rough - y).max() < 0.03 * np.abs(y).max()
    assert np.abs(rough - numpy(before)).max() > 0.1 * np.abs(y).max()


def test_channels_first():
    last = build_layer(convolution(L.Conv2D, 10, 3, (7, 6, 4))[0])
    first = build_layer(convolution(L.Conv2D, 10, 3, (4, 7, 6), data_format=CHANNELS_FIRST)[0])
    x = batch((2, 7, 6, 4))
    for layer in (last, first):
        keras.utils.set_random_seed(0)
        ksa.enable(layer, ksa.SVFT("banded", d=2))
        shake(layer)
    np.testing.assert_allclose(numpy(first.kernel), numpy(last.kernel), atol=1e-6)
    if keras.backend.backend() == "tensorflow":  # whose CPU computes none of this kind
        return
    y = numpy(first(x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(y, numpy(last(x)), atol=1e-4)


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="stem")(inputs)
    for i in range(2):
        x = L.Conv2D(8, 3, padding="same", activation="relu", name=f"conv_{i}")(x)
    return keras.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("method", [ksa.LoRA(rank=2, dropout=0.5), ksa.SVF()], ids=str)
def test_a_model_learns_is_saved_and_merged(method, tmp_path):
    model, x = network(), batch((8, 8, 8, 3))
    ksa.enable(model, method, targets="conv*", train="head")
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(True))
    before = [numpy(w) for w in model.trainable_weights]
    model.fit(x, np.arange(8) % 3, epochs=2, verbose=0)
    assert all((numpy(w) != old).any() for w, old in zip(model.trainable_weights, before))
    y = model.predict(x, verbose=0)
    ksa.save_adapter(model, tmp_path / "adapter.keras")
    model.save(tmp_path / "model.keras")
    fresh = network()
    ksa.load_adapter(fresh, tmp_path / "adapter.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for other in (fresh, again):
        np.testing.assert_array_equal(other.predict(x, verbose=0), y)
    ksa.merge(model)
    assert type(model.get_layer("conv_0")) is L.Conv2D
    np.testing.assert_allclose(model.predict(x, verbose=0), y, atol=1e-5)


def test_dropout_knows_when_it_trains():
    layer = build_layer(KERNELS["conv2d"][0])
    ksa.enable(layer, ksa.LoRA(rank=2, dropout=0.5))
    shake(layer)
    x = batch(KERNELS["conv2d"][1])
    inside = keras.Sequential([layer])
    still = numpy(inside(x, training=False))
    np.testing.assert_array_equal(still, numpy(inside(x)))
    assert np.abs(numpy(inside(x, training=True)) - still).max() > 1e-3


def test_which_convolutions_are_meant():
    model = network()
    assert [site.path for site in ksa.plan(model, ksa.SVF(), targets="conv*").sites] == [
        "conv_0",
        "conv_1",
    ]
    mixed = keras.Sequential(
        [keras.Input((4, 4, 2)), L.Conv2D(4, 2), L.Dense(3, name="inner"), L.Dense(2)]
    )
    assert [site.path for site in ksa.plan(mixed, ksa.SVF()).sites] == ["inner"]
    alone = keras.Sequential([keras.Input((4, 4, 2)), L.Conv2D(4, 2, name="a"), L.Conv2D(2, 1)])
    assert [site.path for site in ksa.plan(alone, ksa.SVF()).sites] == ["a"]


def test_a_convolution_of_its_own_kind_is_refused():
    @keras.saving.register_keras_serializable("tests")
    class Standardized(L.Conv2D):
        def convolution_op(self, inputs, kernel):
            return super().convolution_op(inputs, kernel - keras.ops.mean(kernel))

    model = keras.Sequential([keras.Input((4, 4, 4)), Standardized(4, 2, name="own")])
    with pytest.raises(ValueError, match="`convolution_op` of its own"):
        ksa.enable(model, ksa.SVF(), targets="own")


def test_blocks_of_convolutions_beside_a_dense_layer():
    x = inputs = keras.Input((4, 4, 4))
    for i in range(2):
        x = keras.Sequential([L.Conv2D(4, 1, name="conv")], name=f"block_{i}")(x)
    x = L.Dense(4, name="inner")(L.Flatten()(x))
    model = keras.Model(inputs, L.Dense(2, name="head")(x))
    assert [site.path for site in ksa.plan(model, ksa.SVF()).sites] == ["inner"]


def test_groups_are_refused():
    model = keras.Sequential([keras.Input((4, 4, 4)), L.Conv2D(4, 2, groups=2, name="grouped")])
    with pytest.raises(ValueError, match="each of its 2 groups(.|\n)*Received: targets='grouped'"):
        ksa.enable(model, ksa.SVF(), targets="grouped")


def test_a_method_is_told_the_number_of_positions(monkeypatch):
    """Some choose their formulation by it."""
    seen, adapt = [], Adapter.adapt

    def watched(self, x, base, *args, **kwargs):
        seen.append(base)
        return adapt(self, x, base, *args, **kwargs)

    monkeypatch.setattr(Adapter, "adapt", watched)
    build, shape = KERNELS["pointwise"]
    layer = build_layer(build)
    ksa.enable(layer, ksa.LoRA(rank=2))
    layer(batch(shape))
    assert [base.tokens for base in seen] == [2 * 5 * 4]
