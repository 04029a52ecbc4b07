"""Methods of PEFT whose modules share arrays: VB-LoRA's bank, and RandLoRA's bases."""

from types import SimpleNamespace

import keras
import numpy as np
import peft
import pytest
import torch
from cases import shake
from peft_exchange import MODULES, changed, close, take_off, unchanged
from safetensors.numpy import load_file, save_file

import keras_svd_adapters as ksa

pytestmark = pytest.mark.backend_free("arrays of PEFT")


def build():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(12, name="up"), keras.layers.Dense(8, name="down")]
    return keras.Sequential([keras.Input((8,)), *layers])


def exported(directory, **how):
    """A model with VB-LoRA, and a directory with it."""
    model = build()
    method = ksa.methods.VBLoRA(rank=2, vectors=5, vector_length=4, **how)
    ksa.enable(model, method, targets=["up", "down"])
    shake(model)
    ksa.export_peft(model, directory, modules=MODULES)
    return model


@pytest.mark.parametrize("one_bank", [True, False])
def test_the_bank_is_in_a_directory_once(one_bank, tmp_path):
    model, x = exported(tmp_path, one_bank=one_bank), np.ones((2, 8), "float32")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    banks = {key: value.shape for key, value in tensors.items() if "bank" in key}
    assert banks == {"base_model.vblora_vector_bank": (5 if one_bank else 10, 4)}
    expected = model.predict(x, verbose=0)
    take_off(model)
    status = ksa.import_peft(model, tmp_path, modules=MODULES)
    close(model.predict(x, verbose=0), expected)
    assert "one_bank=True" in str(status)
    assert [w.name for w in model.trainable_weights].count("bank") == 1


def test_a_directory_without_its_bank(tmp_path):
    model = exported(tmp_path)
    take_off(model)
    changed(tmp_path, save_only_topk_weights=True)
    unchanged(model, lambda: read(model, tmp_path), ValueError, "save_only_topk_weights=True")
    changed(tmp_path, save_only_topk_weights=False)
    values = load_file(tmp_path / "adapter_model.safetensors")
    bank = values.pop("base_model.vblora_vector_bank")
    save_file(values, tmp_path / "adapter_model.safetensors")
    unchanged(model, lambda: read(model, tmp_path), ValueError, "should have .*vblora_vector_bank")
    save_file(
        values | {"base_model.vblora_vector_bank": bank[:, :3].copy()},
        tmp_path / "adapter_model.safetensors",
    )
    unchanged(model, lambda: read(model, tmp_path), ValueError, r"of shape \(10, 4\)")


def read(model, directory):
    return ksa.import_peft(model, directory, modules=MODULES)


class Twin(torch.nn.Module):
    """The Keras model in PyTorch."""

    def __init__(self, model):
        super().__init__()
        self.mlp = torch.nn.ModuleDict()
        for layer, name in zip(model.layers, ("up_proj", "down_proj"), strict=True):
            m, n = layer.kernel.shape
            self.mlp[name] = torch.nn.Linear(m, n)
            weight, bias = (keras.ops.convert_to_numpy(w) for w in (layer.kernel, layer.bias))
            self.mlp[name].weight.data = torch.tensor(weight.T.copy())
            self.mlp[name].bias.data = torch.tensor(bias)

    def forward(self, x):
        return self.mlp["down_proj"](self.mlp["up_proj"](x))


def test_randlora_leaves_and_comes_back(tmp_path):
    model, x = build(), np.random.default_rng(5).normal(size=(4, 8)).astype("float32")
    twin = Twin(model)
    method = ksa.methods.RandLoRA(rank=3, alpha=6, seed=4)
    ksa.enable(model, method, targets=["up", "down"])
    shake(model)
    expected = model.predict(x, verbose=0)
    assert ksa.export_peft(model, tmp_path / "a", modules=MODULES).error == 0
    theirs = peft.PeftModel.from_pretrained(twin, str(tmp_path / "a"))
    close(theirs(torch.tensor(x)).detach().numpy(), expected)
    take_off(model)
    assert "RandLoRA(rank=3" in str(read(model, tmp_path / "a"))
    close(model.predict(x, verbose=0), expected)
    theirs.save_pretrained(str(tmp_path / "b"))
    again = build()
    read(again, tmp_path / "b")
    close(again.predict(x, verbose=0), expected)
    tensors = load_file(tmp_path / "b" / "adapter_model.safetensors")
    del tensors["base_model.randlora_A"]
    save_file(tensors, tmp_path / "b" / "adapter_model.safetensors")
    take_off(again)
    unchanged(again, lambda: read(again, tmp_path / "b"), ValueError, "lacks the random arrays")


def test_randlora_of_kernels_of_several_sizes(tmp_path):
    """Each number of terms has another order of the columns in PEFT."""
    torch.manual_seed(0)
    model = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(12, name="up"), keras.layers.Dense(4, name="down")]
    )
    config = peft.RandLoraConfig(r=3, randlora_alpha=6, target_modules=["up_proj", "down_proj"])
    peft.get_peft_model(Twin(model), config).save_pretrained(str(tmp_path / "a"))
    unchanged(model, lambda: read(model, tmp_path / "a"), ValueError, r"Received: \[2, 4\] terms")
    ksa.enable(model, ksa.methods.RandLoRA(rank=3), targets=["up", "down"])
    shake(model)
    report = ksa.export_peft(model, tmp_path / "b", modules=MODULES)
    assert "LoRA(rank=12)" in str(report)
    assert report.error < 1e-6


@pytest.mark.parametrize(("m", "n"), [(12, 20), (20, 12), (12, 12)])
def test_randlora_pairs_its_bases_otherwise_in_peft(m, n):
    """PEFT pairs column `i N + j` of the flat bases with entry (i, j) of lambda; the paper, ours.

    With the columns in our order, the update is the same.
    """
    r, method = 5, ksa.methods.RandLoRA(rank=5, alpha=10)
    model = torch.nn.Sequential(torch.nn.Linear(m, n))
    config = peft.RandLoraConfig(r=r, randlora_alpha=10, target_modules=["0"])
    layer = peft.get_peft_model(model, config).base_model.model[0]
    generator = np.random.default_rng(0)
    for array in (layer.randlora_lambda, layer.randlora_gamma):
        value = torch.tensor(generator.normal(size=array["default"].shape).astype("float32"))
        array["default"].data = value
    expected = layer.get_delta_weight("default").detach().numpy().T

    small = layer.randlora_A["default"].float().numpy()[:, 0, : min(m, n)]
    bases = layer.randlora_B["default"].float().numpy()
    lam = layer.randlora_lambda["default"].detach().numpy().T
    terms = len(lam)
    flat = bases[: max(m, n), :terms].reshape(max(m, n), -1)
    places = [i * terms + j for j in range(terms) for i in range(r)]
    side = {"basis_in": small.T} if m <= n else {"basis_out": small}
    gam = layer.randlora_gamma["default"].detach().numpy()

    def delta(basis):
        v = SimpleNamespace(lambdas=lam, gammas=gam, basis=basis, **side)
        return method.delta(np.zeros((m, n)), v, "additive")

    np.testing.assert_allclose(delta(flat[:, places]), expected, atol=1e-3, rtol=1e-3)
    assert np.abs(delta(flat) - expected).max() > 0.1
