"""AdaLoRA of HF PEFT: its outputs, its term of the loss, and ranks that it pruned."""

import json

import keras
import numpy as np
import peft
import pytest
import torch
from cases import shake
from peft_exchange import MODULES, close, take_off, unchanged
from safetensors.numpy import load_file

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites

pytestmark = pytest.mark.backend_free("files, and arrays of NumPy")
METHOD = ksa.methods.AdaLoRA(rank=4, alpha=6, orthogonality=0.3)
X = np.random.default_rng(2).normal(size=(5, 8)).astype("float32")


class Theirs(torch.nn.Module):
    """The Keras model in PyTorch, with a loss for PEFT to add to."""

    def __init__(self, model):
        super().__init__()
        self.mlp = torch.nn.Module()
        for layer in model.layers:
            m, n = layer.base_kernel.shape
            linear = torch.nn.Linear(m, n)
            linear.weight.data = torch.tensor(keras.ops.convert_to_numpy(layer.base_kernel).T)
            linear.bias.data = torch.tensor(keras.ops.convert_to_numpy(layer.bias))
            setattr(self.mlp, f"{layer.name}_proj", linear)

    def forward(self, x):
        y = self.mlp.down_proj(self.mlp.up_proj(x))
        return type("Output", (), {"loss": torch.zeros(()), "y": y})()


@pytest.fixture
def adapted(model):
    ksa.enable(model, METHOD, list(MODULES))
    shake(model, 0.3)
    return model


def in_peft(model, directory):
    return peft.PeftModel.from_pretrained(Theirs(model), str(directory))


def outputs(theirs):
    return theirs(torch.tensor(X)).y.detach().numpy()


def adapters(model):
    return [adapters_of(site.layer)["default"] for site in adapted_sites(model)]


def test_outputs_and_penalty(adapted, tmp_path):
    ksa.export_peft(adapted, tmp_path, modules=MODULES)
    theirs = in_peft(adapted, tmp_path)
    expected = adapted.predict(X, verbose=0)
    assert np.abs(outputs(theirs) - expected).max() < 1e-5
    penalty = float(sum(keras.ops.convert_to_numpy(loss) for loss in adapted.losses))
    theirs.base_model.trainable_adapter_name = "default"
    assert float(theirs.base_model(torch.tensor(X)).loss) == pytest.approx(penalty, rel=1e-5)


def test_pruned_ranks_leave(adapted, tmp_path):
    for adapter, mask in zip(adapters(adapted), ([1, 0, 1, 0], [0, 1, 1, 1]), strict=True):
        adapter.mask.assign(mask)
    expected = adapted.predict(X, verbose=0)
    ksa.export_peft(adapted, tmp_path, modules=MODULES)
    close(outputs(in_peft(adapted, tmp_path)), expected)
    take_off(adapted)
    ksa.import_peft(adapted, tmp_path, modules=MODULES)
    close(adapted.predict(X, verbose=0), expected)


def test_pruned_ranks_come(adapted, tmp_path):
    """What PEFT pruned comes with its scale, and stays off in training."""
    ksa.export_peft(adapted, tmp_path / "ours", modules=MODULES)
    theirs = in_peft(adapted, tmp_path / "ours")
    kept = {"up_proj": [True, False, True, False], "down_proj": [False, False, True, True]}
    for module, which in kept.items():
        getattr(theirs.base_model.model.mlp, module).lora_E["default"].data[~np.array(which)] = 0
    pattern = {f"mlp.{module}.lora_E.default": which for module, which in kept.items()}
    theirs.peft_config["default"].rank_pattern = pattern
    expected = outputs(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    tensors = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert tensors["base_model.model.mlp.up_proj.lora_A"].shape == (2, 8)
    take_off(adapted)
    ksa.import_peft(adapted, tmp_path / "theirs", modules=MODULES)
    close(adapted.predict(X, verbose=0), expected)
    assert all(adapter.method.scale == METHOD.scale for adapter in adapters(adapted))
    adapted.compile(keras.optimizers.Adam(1e-2), "mse")
    adapted.fit(X, X, epochs=3, verbose=0)
    for adapter, which in zip(adapters(adapted), kept.values(), strict=True):
        gate = keras.ops.convert_to_numpy(adapter.gate)
        np.testing.assert_array_equal(gate != 0, which)
    config = tmp_path / "theirs" / "adapter_config.json"
    pattern = {"mlp.up_proj.lora_E": [True] * 4}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rank_pattern": pattern}))
    take_off(adapted)
    unchanged(
        adapted,
        lambda: ksa.import_peft(adapted, tmp_path / "theirs", modules=MODULES),
        ValueError,
        "not those that `rank_pattern` keeps",
    )
