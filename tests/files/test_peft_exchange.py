"""Adapters that leave for HF PEFT and come back, by models of both libraries."""

import copy
import json
import warnings

import keras_hub
import numpy as np
import peft
import pytest
import torch
import transformers
from cases import shake
from peft_exchange import close, take_off
from transformers_pairs import DECODER, PAIRS, in_peft, settle, text

import keras_svd_adapters as ksa
from keras_svd_adapters.files.peft.families import FAMILIES

METHODS = {
    "lora": (ksa.LoRA(rank=3, alpha=6), {}),
    "lora_fa": (ksa.LoRA(rank=3, alpha=6, freeze="a"), {}),
    "olora": (ksa.LoRA(rank=2, alpha=4, start="olora"), {}),
    "olora_fa": (ksa.LoRA(rank=2, start="olora", freeze="a"), {}),
    "rslora": (ksa.LoRA(rank=3, alpha=6, rslora=True), {}),
    "dora": (ksa.DoRA(rank=3, alpha=6), {}),
    "vera": (ksa.VeRA(rank=16), {}),
    "pissa": (ksa.PiSSA(rank=2, alpha=4), {}),
    "milora": (ksa.MiLoRA(rank=2), {}),
    "lora_xs": (ksa.LoRAXS(rank=4, alpha=8), {}),
    "loha": (ksa.methods.LoHa(rank=3, alpha=6), {}),
    "lokr": (ksa.methods.LoKr(rank=2, alpha=6), {}),
    "miss": (ksa.methods.MiSS(rank=3), {}),
    "hra": (ksa.methods.HRA(rank=4), {}),
    "oft": (ksa.methods.OFT(block_size=4), {}),
    "boft": (ksa.methods.BOFT(block_size=4), {}),
    "ia3": (ksa.methods.IA3(), {}),
    "fourier_ft": (ksa.methods.FourierFT(count=40, scale=30.0), {}),
    "adalora": (ksa.methods.AdaLoRA(rank=4, alpha=6), {}),
    "vblora": (ksa.methods.VBLoRA(rank=2, vectors=9, vector_length=4), {}),
    "vblora_one_bank": (ksa.methods.VBLoRA(2, 9, 4, one_bank=True), {}),
    "randlora": (ksa.methods.RandLoRA(rank=5, alpha=20), {}),
    "tri_lora": (ksa.methods.TriLoRA(rank=3), {}),
    "psoft": (ksa.methods.PSOFT(rank=4), {}),
    "svf": (ksa.SVF(), {"energy": 1.0}),
    "svft": (ksa.SVFT(pattern="banded", d=2), {"rank": 12}),
}
MIXED = {"attention": ksa.LoRA(rank=3, alpha=6), "mlp": ksa.PiSSA(rank=2)}


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
@pytest.mark.parametrize(("method", "size"), METHODS.values(), ids=METHODS)
def test_every_method_leaves_and_comes_back(pair, method, size, tmp_path):
    base = pair.keras_outputs()
    ksa.enable(pair.keras, method)
    shake(pair.keras)
    adapted = pair.keras_outputs()
    assert np.abs(adapted - base).max() > 0.05
    told = ksa.export_peft(pair.keras, tmp_path, **size)
    if "rank" in size:
        assert 0.01 < told.error < 1
        ksa.to_lora(pair.keras, "default", "near", **size)
        adapted = pair.keras_outputs()
        ksa.delete_adapter(pair.keras, "near")
    else:
        assert told.error < 1e-6
    close(in_peft(pair, tmp_path), adapted)
    take_off(pair.keras)
    close(pair.keras_outputs(), base)
    ksa.import_peft(pair.keras, tmp_path)
    close(pair.keras_outputs(), adapted)


@pytest.mark.parametrize("pair", [f for f in PAIRS if f != "llama"], indirect=True)
def test_every_family_leaves_and_comes_back(pair, tmp_path):
    base = pair.keras_outputs()
    ksa.enable(pair.keras, targets=MIXED)
    shake(pair.keras)
    adapted = pair.keras_outputs()
    assert np.abs(adapted - base).max() > 0.05
    ksa.export_peft(pair.keras, tmp_path, base_model="a/base")
    assert (
        json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "a/base"
    )
    close(in_peft(pair, tmp_path), adapted)
    take_off(pair.keras)
    ksa.import_peft(pair.keras, tmp_path)
    close(pair.keras_outputs(), adapted)


def test_vera_on_some_kernels_of_a_pair_for_more(pairs, tmp_path):
    pair = pairs("llama")
    ksa.enable(pair.keras, ksa.VeRA(rank=8))
    ksa.enable(pair.keras, ksa.VeRA(rank=8), targets="attention", name="some")
    ksa.set_adapter(pair.keras, "some")
    shake(pair.keras)
    adapted = pair.keras_outputs()
    ksa.export_peft(pair.keras, tmp_path, "some")
    close(in_peft(pair, tmp_path), adapted)
    ksa.delete_adapter(pair.keras, "some")
    take_off(pair.keras)


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_psoft_of_peft_comes_in_as_a_lora(pair, tmp_path):
    """PEFT stores no singular vectors, so that its own file would depend on the library."""
    config = peft.PsoftConfig(r=4, psoft_alpha=4, target_modules=["q_proj", "down_proj"])
    model = peft.get_peft_model(copy.deepcopy(pair.transformers), config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator)
    expected = pair.transformers_outputs(model.eval())
    assert np.abs(expected - pair.transformers_outputs()).max() > 0.05
    model.save_pretrained(tmp_path / "psoft")
    with pytest.raises(ValueError, match=r"`peft.save_as_lora.*Received: peft_type='PSOFT'"):
        ksa.import_peft(pair.keras, tmp_path / "psoft")
    peft.save_as_lora(tmp_path / "lora", model, rank=4)
    ksa.import_peft(pair.keras, tmp_path / "lora")
    close(pair.keras_outputs(), expected)


def test_an_embedding_goes_along(tmp_path):
    config = transformers.LlamaConfig(
        **DECODER,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    hf = transformers.LlamaForCausalLM(config)
    pair = text(keras_hub.models.Llama3CausalLM, settle(hf), tmp_path / "base")
    ksa.enable(pair.keras, ksa.LoRA(rank=2), targets=["token_embedding", "query"])
    shake(pair.keras)
    adapted = pair.keras_outputs()
    ksa.export_peft(pair.keras, tmp_path / "peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(copy.deepcopy(hf), str(tmp_path / "peft"))
    close(pair.transformers_outputs(model.eval()), adapted)
    model.save_pretrained(tmp_path / "again")  # which has the frozen table as well
    for directory in ("peft", "again"):
        ksa.delete_adapter(pair.keras, "default")
        ksa.import_peft(pair.keras, tmp_path / directory)
        close(pair.keras_outputs(), adapted)


def test_the_families_are_classes_of_keras_hub():
    for name in FAMILIES:
        assert issubclass(getattr(keras_hub.models, name), keras_hub.models.Backbone)
