"""X-LoRA beside PEFT's, on twins of one tiny Llama with the same two LoRAs."""

import copy
import warnings

import keras
import numpy as np
import peft
import pytest
import torch
from cases import numpy, shake
from transformers_pairs import llama

import keras_svd_adapters as ksa

pytestmark = pytest.mark.backend_free("PEFT runs on PyTorch; X-LoRA is tested on each backend")


def test_the_logits_are_those_of_peft(tmp_path):
    pair = llama(tmp_path / "base")
    folders = {}
    for seed, name in enumerate(("a", "b")):
        ksa.enable(pair.keras, ksa.LoRA(rank=2), name=name, targets=["query", "value"])
        shake(pair.keras, seed=seed)
        folders[name] = str(tmp_path / name)
        ksa.export_peft(pair.keras, folders[name], name)
    mixed = ksa.XLoRA(pair.keras, list(folders))
    numbered = {str(i): folder for i, folder in enumerate(folders.values())}  # as PEFT loads them
    config = peft.XLoraConfig(
        task_type="CAUSAL_LM", hidden_size=24, adapters=numbered, xlora_dropout_p=0.0
    )
    hf = copy.deepcopy(pair.transformers)
    hf.config.use_cache = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(hf, config).eval()
    (last,) = (
        layer
        for layer in theirs.base_model.internal_xlora_classifier.modules()
        if isinstance(layer, torch.nn.Linear)
    )
    kernel = np.random.default_rng(0).standard_normal((24, 2)).astype("float32")
    mixed.classifier.set_weights([kernel, np.array([0.3, -0.3])])
    with torch.no_grad():
        last.weight.copy_(torch.tensor(numpy(mixed.classifier.kernel).T))
        last.bias.copy_(torch.tensor(numpy(mixed.classifier.bias)))
    weights = numpy(mixed.token_weights(pair.keras_inputs))
    assert np.ptp(weights[..., 0]) > 0.3
    expected = pair.transformers_outputs(theirs)
    assert np.abs(expected - pair.transformers_outputs()).max() > 0.05
    found = keras.ops.convert_to_numpy(mixed(pair.keras_inputs))
    np.testing.assert_allclose(found, expected, atol=1e-4)
