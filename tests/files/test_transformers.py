"""Models of KerasHub against the same ones of HF transformers, also merged and exported."""

import re

import numpy as np
import pytest
import torch
import transformers
from cases import shake
from transformers_pairs import PAIRS

import keras_svd_adapters as ksa

# With what the config that KerasHub exports should say: of Mistral, it has hidden_size / heads.
EXPORTED = {"llama": {}, "gemma3": {}, "mistral": {"head_dim": 8}, "qwen2": {}}


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, tmp_path_factory):
    return PAIRS[request.param](tmp_path_factory.mktemp(request.param))


def test_the_pairs_agree(pair):
    np.testing.assert_allclose(pair.keras_outputs(), pair.transformers_outputs(), rtol=0, atol=3e-5)


def test_kernels_are_the_transposes_of_the_weights_of_the_blocks(pair):
    weights = {
        name: module.weight.detach().numpy()
        for name, module in pair.transformers.named_modules()
        if isinstance(module, torch.nn.Linear) and re.search(r"\.\d+\.", name)
    }
    sites = ksa.targets(pair.keras).sites
    found = [n for s in sites for n, w in weights.items() if np.array_equal(s.matrix(), w.T)]
    assert sorted(found) == sorted(weights)
    assert len(found) == len(sites)


@pytest.mark.parametrize(("family", "right"), EXPORTED.items(), ids=EXPORTED)
def test_a_merged_model_is_exported(family, right, tmp_path):
    pair = PAIRS[family](tmp_path / "base")
    base = pair.keras_outputs()
    ksa.enable(pair.keras, ksa.SVFT(pattern="banded", d=2))
    shake(pair.keras)
    adapted = pair.keras_outputs()
    assert np.abs(adapted - base).max() > 0.1
    with pytest.raises(ValueError, match="`keras_svd_adapters.merge"):
        pair.keras.export_to_transformers(tmp_path / "merged")
    with pytest.raises(ValueError, match="`keras_svd_adapters.merge"):
        pair.keras.backbone.export_to_transformers(tmp_path / "merged")
    ksa.merge(pair.keras)
    np.testing.assert_allclose(pair.keras_outputs(), adapted, rtol=0, atol=1e-4)

    pair.keras.export_to_transformers(tmp_path / "merged")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", **right)
    np.testing.assert_allclose(pair.transformers_outputs(model), adapted, rtol=0, atol=1e-4)
