"""Prefix tuning and adaption prompts against PEFT's, on the same models."""

import copy

import keras
import numpy as np
import peft
import pytest
import torch
import transformers
import transformers_pairs
from cases import numpy

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.models.sites.search import adapted_sites

COUNT = 3
pytestmark = pytest.mark.backend_free("the families themselves are tested on each backend")
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"]
CONFIGS = {"mistral": "MistralConfig", "gemma2": "Gemma2Config", "gemma3": "Gemma3TextConfig"}


def pair_of(name, directory, monkeypatch):
    """In PEFT, a prefix takes places in a sliding window, so the window is longer than the text."""
    if name in CONFIGS:
        config = getattr(transformers, CONFIGS[name])
        longer = lambda **given: config(**given | {"sliding_window": 64})  # noqa: E731
        monkeypatch.setattr(transformers_pairs.transformers, CONFIGS[name], longer)
    return transformers_pairs.PAIRS[name](directory)


def turned_back(layer, keys):
    """Keys `(p, heads, size)` of PEFT, whose tokens have positions from p on, as ours from 0 on."""
    rotary = getattr(layer, "rotary_embedding_layer", None) or layer.rope_layer
    places = keras.ops.full((len(keys),), -float(len(keys)))
    turned = numpy(rotary(keras.ops.convert_to_tensor(keys[None]), positions=places))[0]
    if type(layer).__name__ == "CachedGemmaAttention":  # which stores halves alternately
        turned = np.stack(np.split(turned, 2, axis=-1), axis=-1).reshape(turned.shape)
    return turned.reshape(len(keys), -1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prefix(name, tmp_path, monkeypatch):
    pair = pair_of(name, tmp_path, monkeypatch)
    base = pair.keras_outputs()
    ksa.enable(pair.keras, methods.PrefixTuning(length=COUNT))
    sites = adapted_sites(pair.keras)
    heads, size = (sites[0].view.shape[axis] for axis in sites[0].view.columns)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=COUNT)
    theirs = peft.get_peft_model(copy.deepcopy(pair.transformers), config).eval()
    shape = COUNT, len(sites), 2, heads, size
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    with torch.no_grad():
        embedding = theirs.prompt_encoder["default"].embedding.weight
        embedding.copy_(torch.tensor(values.reshape(COUNT, -1)))
    for place, site in enumerate(sites):
        adapter = site.layer.adapter_default
        adapter.keys.assign(turned_back(site.layer, values[:, place, 0]))
        adapter.values.assign(values[:, place, 1].reshape(COUNT, -1))
    found = pair.keras_outputs()
    np.testing.assert_allclose(found, pair.transformers_outputs(theirs), rtol=0, atol=1e-4)
    assert np.abs(found - base).max() > 0.1


def test_an_adaption_prompt(tmp_path):
    pair = transformers_pairs.PAIRS["llama"](tmp_path)
    base = pair.keras_outputs()
    config = peft.AdaptionPromptConfig(adapter_len=COUNT, adapter_layers=1, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(copy.deepcopy(pair.transformers), config).eval()
    ksa.enable(pair.keras, methods.AdaptionPrompt(length=COUNT), last=1)
    (site,) = adapted_sites(pair.keras)
    (attention,) = (m for m in theirs.modules() if hasattr(m, "adaption_prompt"))
    with torch.no_grad():
        attention.adaption_gate.fill_(0.7)
    site.layer.adapter_default.prompt.assign(attention.adaption_prompt.detach().numpy()[0])
    site.layer.adapter_default.gate.assign([0.7])
    found = pair.keras_outputs()
    np.testing.assert_allclose(found, pair.transformers_outputs(theirs), rtol=0, atol=1e-4)
    assert np.abs(found - base).max() > 0.1
