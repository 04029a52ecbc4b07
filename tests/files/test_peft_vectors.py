"""Biases and vectors of normalizations on their way to HF PEFT and back."""

import copy

import keras
import numpy as np
import peft
import pytest
import torch
from cases import shake
from peft_exchange import close, take_off, unchanged
from safetensors.numpy import load_file, save_file
from transformers_pairs import PAIRS, in_peft

import keras_svd_adapters as ksa
from keras_svd_adapters.methods import BitFit, LNTuning, LoHa
from keras_svd_adapters.models.sites.search import adapted_sites

LORA = ksa.LoRA(rank=2)
WITH_BIASES = ["bert", "roberta", "distilbert", "vit", "qwen2"]
SOME = {"attention": LORA, "*/beta": LNTuning(), "*/gamma": LNTuning(), "*dense*/bias": BitFit()}


def moved(pair, *arguments, **options):
    """The outputs of a pair's model with an adapter that moved away from its start."""
    base = pair.keras_outputs()
    ksa.enable(pair.keras, *arguments, **options)
    shake(pair.keras)
    adapted = pair.keras_outputs()
    assert np.abs(adapted - base).max() > 0.05
    return adapted


def leaves_and_comes_back(pair, adapted, directory):
    sites = [site.path for site in adapted_sites(pair.keras)]
    assert ksa.export_peft(pair.keras, directory).error < 1e-6
    close(in_peft(pair, directory), adapted)
    take_off(pair.keras)
    ksa.import_peft(pair.keras, directory)
    close(pair.keras_outputs(), adapted)
    return sites, [site.path for site in adapted_sites(pair.keras)]


def trained_in_peft(pair, config, directory):
    """The outputs of the pair's model of transformers with an adapter that PEFT writes."""
    model = peft.get_peft_model(copy.deepcopy(pair.transformers), config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(directory)
    return pair.transformers_outputs(model.eval())


@pytest.mark.parametrize("pair", list(PAIRS), indirect=True)
def test_ln_tuning_of_every_family(pair, tmp_path):
    before, after = leaves_and_comes_back(pair, moved(pair, LNTuning()), tmp_path)
    assert before == after


@pytest.mark.parametrize("pair", WITH_BIASES, indirect=True)
def test_bitfit_of_every_family_with_biases(pair, tmp_path):
    before, after = leaves_and_comes_back(pair, moved(pair, BitFit()), tmp_path)
    assert before == after
    values = load_file(tmp_path / "adapter_model.safetensors")
    assert not any(value.any() for key, value in values.items() if "lora" in key)


@pytest.mark.parametrize("pair", ["bert"], indirect=True)
def test_kernels_norms_and_biases_together(pair, tmp_path):
    before, after = leaves_and_comes_back(pair, moved(pair, targets=SOME), tmp_path)
    assert before == after


@pytest.mark.parametrize("method", [LORA, ksa.VeRA(rank=8), ksa.methods.OFT(block_size=4)], ids=str)
@pytest.mark.parametrize("others", [{"bias": "adapted"}, {"bias": "all"}, {"train": "*norm*"}])
def test_vectors_that_train_beside_kernels(method, others, tmp_path):
    pair = PAIRS["bert"](tmp_path / "base")  # whose own vectors change
    base = [keras.ops.convert_to_numpy(weight) for weight in pair.keras.weights]
    adapted = moved(pair, method, targets="query", **others)
    ksa.export_peft(pair.keras, tmp_path / "peft")
    close(in_peft(pair, tmp_path / "peft"), adapted)
    take_off(pair.keras)
    for weight, value in zip(pair.keras.weights, base, strict=True):
        weight.assign(value)
    ksa.import_peft(pair.keras, tmp_path / "peft")
    close(pair.keras_outputs(), adapted)


@pytest.mark.parametrize("pair", ["bert", "gemma3"], indirect=True)
def test_ln_tuning_of_peft_comes_in(pair, tmp_path):
    names = {"bert": ["LayerNorm"], "gemma3": ["q_norm", "post_attention_layernorm", "norm"]}
    modules = names["bert" if "bert" in pair.keras.name else "gemma3"]
    expected = trained_in_peft(pair, peft.LNTuningConfig(target_modules=modules), tmp_path)
    ksa.import_peft(pair.keras, tmp_path)
    close(pair.keras_outputs(), expected)
    assert {s.layer.adapter().method for s in adapted_sites(pair.keras)} == {LNTuning()}


@pytest.mark.parametrize("pair", ["bert"], indirect=True)
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_of_peft_come_in(pair, bias, tmp_path):
    config = peft.LoraConfig(
        r=2, target_modules=["query"], bias=bias, modules_to_save=["output.LayerNorm"]
    )
    expected = trained_in_peft(pair, config, tmp_path)
    ksa.import_peft(pair.keras, tmp_path)
    close(pair.keras_outputs(), expected)
    ksa.set_adapter(pair.keras, None)
    close(pair.keras_outputs(), pair.transformers_outputs())
    ksa.set_adapter(pair.keras, "default")
    ksa.export_peft(pair.keras, tmp_path / "again")
    close(in_peft(pair, tmp_path / "again"), expected)


def test_names_of_transformers_before_5_are_read(pairs, tmp_path):
    pair = pairs("vit")
    adapted = moved(pair, LNTuning())
    ksa.export_peft(pair.keras, tmp_path)
    take_off(pair.keras)
    values = load_file(tmp_path / "adapter_model.safetensors")
    before = {
        key.replace("model.layers.", "model.vit.encoder.layer."): values[key] for key in values
    }
    before = {
        key.replace("model.layernorm.", "model.vit.layernorm."): before[key] for key in before
    }
    save_file(before, tmp_path / "adapter_model.safetensors")
    ksa.import_peft(pair.keras, tmp_path)
    np.testing.assert_array_equal(pair.keras_outputs(), adapted)
    take_off(pair.keras)


@pytest.fixture
def normed():
    layers = [keras.layers.Dense(8, name="up"), keras.layers.LayerNormalization(name="norm_0")]
    return keras.Sequential([keras.Input((8,)), *layers])


NAMES = {"up": "mlp.up_proj", "norm_{}": "norms.{}"}


def test_names_for_a_model_of_ones_own(normed, tmp_path):
    ksa.enable(normed, targets={"norm_0/*": LNTuning(), "up/bias": BitFit(), "up": LORA})
    shake(normed)
    x = np.ones((2, 8), "float32")
    adapted = normed.predict(x, verbose=0)
    ksa.export_peft(normed, tmp_path, modules=NAMES)
    assert {key.removeprefix("base_model.model.") for key in load_file(tmp_path / VALUES)} == {
        "mlp.up_proj.base_layer.bias",
        "mlp.up_proj.lora_A.weight",
        "mlp.up_proj.lora_B.weight",
        "norms.0.bias",
        "norms.0.weight",
    }
    take_off(normed)
    ksa.import_peft(normed, tmp_path, modules=NAMES)
    close(normed.predict(x, verbose=0), adapted)


VALUES = "adapter_model.safetensors"
EXPORTS = {
    "no biases with LoHa": ({"up": LoHa(rank=2), "up/bias": BitFit()}, NAMES, "PEFT has no bias"),
    "a norm without a name": (
        {"norm_0/*": LNTuning()},
        {"up": "up"},
        "bias or normalization is not",
    ),
    "no kernel for a LoRA": ({"norm_0/beta": BitFit()}, {"norm_0": "norm"}, "only with a LoRA"),
}


@pytest.mark.parametrize(("targets", "modules", "match"), EXPORTS.values(), ids=EXPORTS)
def test_what_cannot_leave(normed, targets, modules, match, tmp_path):
    ksa.enable(normed, targets=targets)
    unchanged(
        normed, lambda: ksa.export_peft(normed, tmp_path / "no", modules=modules), ValueError, match
    )
    assert not (tmp_path / "no").exists()


IMPORTS = {
    "another shape": (np.ones(9, "float32"), "should have a tensor of shape"),
    "another number of axes": (np.ones((8, 1), "float32"), "should have a tensor of shape"),
    "no such vector": (None, "has no place"),
}


@pytest.mark.parametrize(("tensor", "match"), IMPORTS.values(), ids=IMPORTS)
def test_what_cannot_come_in(normed, tensor, match, tmp_path):
    ksa.enable(normed, LNTuning())
    ksa.export_peft(normed, tmp_path, modules=NAMES)
    take_off(normed)
    values = load_file(tmp_path / VALUES)
    name = "base_model.model.norms.0.ln_tuning_layers.weight"
    values |= {name: tensor} if tensor is not None else {name.replace(".0.", ".1."): values[name]}
    save_file(values, tmp_path / VALUES)
    unchanged(normed, lambda: ksa.import_peft(normed, tmp_path, modules=NAMES), ValueError, match)
