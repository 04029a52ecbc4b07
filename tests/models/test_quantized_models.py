"""Quantized language models with adapters: they learn, and are saved and loaded."""

import keras
import models
import numpy as np
import pytest
from autodiff import gradients
from cases import batch, numpy, shake
from quantized_layers import (
    MODES,
    language_model,
    norm,
    tokens,
)

import keras_svd_adapters as ksa
from keras_svd_adapters.models.sites.search import find_sites

backend_free = pytest.mark.backend_free("whole models of layers that each backend tests")


@backend_free
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
    rough, right = found
    assert rough @ right > 0.98 * np.linalg.norm(rough) * np.linalg.norm(right)


@pytest.mark.parametrize("mode", MODES)
def test_a_quantized_language_model_learns(mode):
    model, _ = language_model(mode)
    ksa.enable(model, ksa.LoRA(rank=4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    x = tokens()
    y = np.roll(x["token_ids"], -1, axis=1)
    history = model.fit(x, y, epochs=12, verbose=0).history["loss"]
    assert history[-1] < 0.85 * history[0]


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


@backend_free
@pytest.mark.parametrize("mode", MODES)
def test_an_adapter_fits_floats_and_integers(mode, tmp_path):
    floats = models.gemma(num_layers=1, num_key_value_heads=1)
    model = models.gemma(num_layers=1, num_key_value_heads=1)
    model.set_weights(floats.get_weights())
    how, config = MODES[mode]
    ksa.quantize(model, how, config=config, verbose=0)
    for one, other in ((floats, model), (model, floats)):
        ksa.enable(one, ksa.LoRA(rank=2))
        shake(one)
        ksa.save_adapter(one, tmp_path / "adapter.keras")
        with pytest.warns(UserWarning, match="The adapter was trained on .* kernels. These are"):
            ksa.load_adapter(other, tmp_path / "adapter.keras")
        far = {"int8": 0.1, "int4": 0.3, "nf4": 0.3}[how]
        assert norm(numpy(one(tokens())), numpy(other(tokens()))) < far
        for each in (one, other):
            ksa.delete_adapter(each, "default")


@backend_free
def test_what_float_kernels_have_more_than_integers_is_extracted(recwarn):
    model, floats = language_model("int8")
    for site in find_sites(floats):
        if not site.host.is_lookup:
            kernel = site.layer.kernel
            kernel.assign_add(0.1 * batch(kernel.shape, seed=8))
    ksa.extract_lora(model.backbone, floats.backbone, rank=4)
    told = [str(w.message) for w in recwarn if "differ" in str(w.message)]
    assert not any("kernel" in text.split("Name the kernels")[0] for text in told)


@backend_free
def test_what_quantized_kernels_refuse():
    model, _ = language_model("int8")
    before = [w.path for w in model.weights]
    with pytest.raises(ValueError, match="formulation='auto'.*Received"):
        ksa.enable(model, ksa.SVF(formulation="factored"))
    assert [w.path for w in model.weights] == before
    ksa.enable(model, ksa.SVF())
    for wrong in (None, "int8"):
        with pytest.raises(ValueError, match="quantized.*float.*requantize.*Received"):
            ksa.merge(model, quantized=wrong)
    with pytest.raises(ValueError, match="`save_adapter`, `delete_adapter`, `model.quantize`"):
        model.quantize("int4")
