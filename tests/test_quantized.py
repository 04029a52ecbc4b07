"""Adapters on layers whose kernels Keras quantized."""

import keras
import models
import numpy as np
import pytest
from autodiff import gradients
from cases import KERNELS, METHODS, batch, numpy, shake
from keras.quantizers import AbsMaxQuantizer, Int4QuantizationConfig

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


def language_model(mode):
    """A language model, quantized, and one of floats with the same values."""
    keras.utils.set_random_seed(4)
    model, floats = (models.gemma(num_layers=2, num_key_value_heads=1) for _ in range(2))
    floats.set_weights(model.get_weights())
    how, config = MODES[mode]
    model.quantize(how, config=config)
    for site, ours in zip(find_sites(floats), find_sites(model), strict=True):
        if not site.host.looks_up:
            site.layer.kernel.assign(base_value(ours.layer))
    table = model.backbone.token_embedding
    if mode == "int8":
        values = numpy(table.embeddings).astype("float32") / numpy(table.embeddings_scale)[:, None]
        floats.backbone.token_embedding.embeddings.assign(values)
    return model, floats


def tokens():
    ids = np.random.default_rng(2).integers(1, 40, size=(4, 12)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}


@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVF()], ids=str)
def test_an_int8_language_model_has_the_gradient_of_its_floats(method):
    found = []
    model, floats = language_model("int8")
    before = numpy(model(tokens()))
    for each in (model, floats):
        keras.utils.set_random_seed(5)
        ksa.enable(each, method, targets="attention", cache=False)
        if each is model:
            np.testing.assert_allclose(numpy(each(tokens())), before, rtol=0, atol=1e-5)
        rng = np.random.default_rng(1)
        for site in ksa.targets(each, "attention").sites:
            for name, variable in site.layer.adapter().trained.items():
                shape = variable.shape
                variable.assign(0.1 * rng.normal(size=shape) + (1.0 if name == "z" else 0.0))
        g = batch((4, 12, 40), seed=9)
        found.append(np.concatenate([x.ravel() for x in gradients(each, tokens(), g)]))
    ours, right = found
    assert ours @ right > 0.98 * np.linalg.norm(ours) * np.linalg.norm(right)


@pytest.mark.parametrize("mode", MODES)
def test_a_quantized_language_model_learns(mode):
    model, _ = language_model(mode)
    ksa.enable(model, ksa.LoRA(rank=4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    x = tokens()
    y = np.roll(x["token_ids"], -1, axis=1)
    history = model.fit(x, y, epochs=12, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]


def test_a_quantized_model_is_saved_with_its_adapter(tmp_path):
    model, _ = language_model("int8")
    ksa.enable(model, ksa.SVFT(pattern="banded", d=1))
    shake(model)
    expected = numpy(model(tokens()))
    ksa.save_adapter(model, tmp_path / "adapter.keras")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(loaded(tokens())), expected, rtol=0, atol=1e-6)
    ksa.delete_adapter(model, "default")
    ksa.load_adapter(model, tmp_path / "adapter.keras")
    np.testing.assert_allclose(numpy(model(tokens())), expected, rtol=0, atol=1e-6)


def test_an_adapter_of_floats_loads_onto_integers_with_a_warning(tmp_path):
    model, floats = language_model("int8")
    ksa.enable(floats, ksa.LoRA(rank=2))
    shake(floats)
    ksa.save_adapter(floats, tmp_path / "adapter.keras")
    ksa.load_adapter(model, tmp_path / "adapter.keras")
    y, expected = numpy(model(tokens())), numpy(floats(tokens()))
    assert norm(y, expected) < 0.1


def test_what_float_kernels_have_more_than_integers_is_extracted(recwarn):
    model, floats = language_model("int8")
    for site in find_sites(floats):
        if not site.host.looks_up:
            kernel = site.layer.kernel
            kernel.assign_add(0.1 * batch(kernel.shape, seed=8))
    ksa.extract_lora(model.backbone, floats.backbone, rank=4)
    told = [str(w.message) for w in recwarn if "differ" in str(w.message)]
    assert not any("kernel" in text.split("Name those")[0] for text in told)


def test_what_quantized_kernels_refuse():
    model, _ = language_model("int8")
    before = [w.path for w in model.weights]
    with pytest.raises(ValueError, match="formulation='auto'.*Received"):
        ksa.enable(model, ksa.SVF(formulation="factored"))
    assert [w.path for w in model.weights] == before
    ksa.enable(model, ksa.SVF())
    with pytest.raises(ValueError, match="load it onto the float model and merge there"):
        ksa.merge(model)
    with pytest.raises(ValueError, match="`save_adapter`, `delete_adapter`, `model.quantize`"):
        model.quantize("int4")


LOGITS = {
    "int8": ("int8", None),
    "int4": (
        "int4",
        Int4QuantizationConfig(block_size=None, activation_quantizer=AbsMaxQuantizer(axis=-1)),
    ),
}


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("mode", LOGITS)
def test_logits_of_integers_have_the_gradient_of_floats(mode, tied, cap):
    table = keras.layers.ReversibleEmbedding(20, 8, tie_weights=tied, logit_soft_cap=cap)
    table.build()
    for weight in table.weights:
        weight.assign(batch(weight.shape, seed=3))

    class Logits(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.table = table

        def call(self, x):
            return self.table(x, reverse=True)

    before = keras.layers.Dense(8, name="before")
    model = keras.Sequential([keras.Input((6,)), before, Logits()])
    how, config = LOGITS[mode]
    table.quantize(how, config=config)
    plain = type(table)
    ksa.enable(model, ksa.LoRA(rank=2), targets="before")
    shake(model)
    x, g = batch((5, 6)), batch((5, 20), seed=9)
    object.__setattr__(table, "logit_soft_cap", None)
    floats = numpy(table(keras.ops.eye(8), reverse=True))
    object.__setattr__(table, "logit_soft_cap", cap)
    slope = 1.0 if cap is None else 1 - np.tanh(numpy(before(x)) @ floats / cap) ** 2
    expected = gradients(before, x, (g * slope) @ floats.T)
    for found, right in zip(gradients(model, x, g), expected, strict=True):
        assert norm(found, right) < 2e-2
    ksa.delete_adapter(model, "default")
    assert type(table) is plain
