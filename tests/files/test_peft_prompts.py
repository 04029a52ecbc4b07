"""Prompts on their way to HF PEFT and back."""

import copy

import keras
import keras_hub
import numpy as np
import peft
import pytest
import torch
import transformers
from cases import shake
from peft_exchange import take_off
from safetensors.numpy import load_file, save_file
from snapshots import refused
from transformers_pairs import PAIRS, VOCABULARY, settle, text

import keras_svd_adapters as ksa
from keras_svd_adapters.methods import CPT, PromptTuning, PTuning


def gpt2(directory):
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=24,
        n_layer=2,
        n_head=4,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = settle(transformers.GPT2LMHeadModel(config))
    return text(keras_hub.models.GPT2CausalLM, model, directory)


FAMILIES = {
    **{name: PAIRS[name] for name in ("llama", "gemma", "gemma3", "mistral", "qwen2", "bert")},
    "gpt2": gpt2,
}


def make(family, directory):
    pair = FAMILIES[family](directory)
    if "segment_ids" in pair.keras_inputs:  # PEFT leaves them out
        pair.keras_inputs["segment_ids"][:] = 0
        pair.transformers_inputs.pop("token_type_ids")
    return pair


def outputs_of(pair, model):
    """The outputs of PEFT's model, without the positions of the prompt."""
    inputs = pair.transformers_inputs
    mask = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        y = model.eval()(**inputs, attention_mask=mask)
    y = (y.logits if "logits" in y else y.last_hidden_state).numpy()
    return y[:, -inputs["input_ids"].shape[1] :]


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_leaves_and_comes_back(family, tmp_path):
    pair = make(family, tmp_path / "base")
    base = pair.keras_outputs()
    ksa.enable(pair.keras, PromptTuning(length=3, after=0))
    shake(pair.keras)
    adapted = pair.keras_outputs()
    assert np.abs(adapted - base).max() > 0.05
    ksa.export_peft(pair.keras, tmp_path / "peft")
    model = copy.deepcopy(pair.transformers)
    close(outputs_of(pair, peft.PeftModel.from_pretrained(model, tmp_path / "peft")), adapted)
    take_off(pair.keras)
    ksa.import_peft(pair.keras, tmp_path / "peft")
    close(pair.keras_outputs(), adapted)


SETTINGS = {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}
CONFIGS = {
    "prompt_tuning": lambda: peft.PromptTuningConfig(**SETTINGS),
    "p_tuning": lambda: peft.PromptEncoderConfig(**SETTINGS, encoder_hidden_size=8),
    "cpt": lambda: peft.CPTConfig(cpt_token_ids=[4, 9, 2], task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_prompt_of_peft_comes_in(config, tmp_path):
    pair = make("llama", tmp_path / "base")
    model = peft.get_peft_model(copy.deepcopy(pair.transformers), config())
    with torch.no_grad():
        for parameter in model.prompt_encoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path / "peft")
    expected = outputs_of(pair, model)
    ksa.import_peft(pair.keras, tmp_path / "peft")
    close(pair.keras_outputs(), expected)


@pytest.mark.parametrize("method", [PTuning(length=3, hidden=8), CPT([4, 9, 2])], ids=str)
def test_what_trained_more_leaves_as_rows(method, tmp_path):
    pair = make("llama", tmp_path / "base")
    ksa.enable(pair.keras, method)
    shake(pair.keras)
    adapted = pair.keras_outputs()
    ksa.export_peft(pair.keras, tmp_path / "peft")
    ksa.import_peft(pair.keras, tmp_path / "peft", "rows")
    close(pair.keras_outputs(), adapted)
    assert ksa.status(pair.keras).trainable_parameters == 3 * 24


def test_what_does_not_fit(tmp_path):
    pair = make("bert", tmp_path / "base")
    ksa.enable(pair.keras, PromptTuning(length=3))
    with pytest.raises(ValueError, match="train it with `after=0`"):
        ksa.export_peft(pair.keras, tmp_path / "peft")
    take_off(pair.keras)
    ksa.enable(pair.keras, PromptTuning(length=3, after=0))
    with pytest.raises(ValueError, match="leave out.*Received: rank=4, energy=None"):
        ksa.export_peft(pair.keras, tmp_path / "peft", rank=4)
    ksa.export_peft(pair.keras, tmp_path / "peft")
    take_off(pair.keras)
    path = tmp_path / "peft" / "adapter_model.safetensors"
    (rows,) = load_file(path).values()
    for tensors, words in (
        ({"prompt_embeddings": rows[:, :4].copy()}, "rows of 24 values"),
        ({"prompt_embeddings": np.full_like(rows, np.nan)}, "finite"),
        ({"prompt_embeddings": rows, "base_model.classifier.weight": rows}, "without heads"),
    ):
        save_file(tensors, path)
        with refused(pair.keras, words):
            ksa.import_peft(pair.keras, tmp_path / "peft")
    inputs = keras.Input((None,), dtype="int32")
    other = keras.Model(inputs, keras.layers.Embedding(96, 24)(inputs))
    save_file({"prompt_embeddings": rows}, path)
    with refused(other, "same scale in transformers"):
        ksa.import_peft(other, tmp_path / "peft")
