"""Outputs, gradients and merged kernels against HF PEFT, with the same weights and masks."""

import copy

import keras
import numpy as np
import peft
import pytest
import torch
from autodiff import gradients
from cases import batch, close, numpy

import keras_svd_adapters as ksa
from keras_svd_adapters.methods.statistics import Statistics

M, N, RANK = 14, 9, 3
CASES = {
    "lora": (ksa.LoRA(rank=RANK, alpha=6), peft.LoraConfig(r=RANK, lora_alpha=6)),
    "lora_dropout": (
        ksa.LoRA(rank=RANK, alpha=6, dropout=0.5),
        peft.LoraConfig(r=RANK, lora_alpha=6, lora_dropout=0.5),
    ),
    "rslora": (
        ksa.LoRA(rank=RANK, alpha=6, rslora=True),
        peft.LoraConfig(r=RANK, lora_alpha=6, use_rslora=True),
    ),
    "dora": (ksa.DoRA(rank=RANK, alpha=6), peft.LoraConfig(r=RANK, lora_alpha=6, use_dora=True)),
    "dora_dropout": (
        ksa.DoRA(rank=RANK, alpha=6, dropout=0.5),
        peft.LoraConfig(r=RANK, lora_alpha=6, use_dora=True, lora_dropout=0.5),
    ),
    "vera": (ksa.VeRA(rank=20), peft.VeraConfig(r=20, d_initial=0.1)),
    "vera_dropout": (
        ksa.VeRA(rank=20, dropout=0.5),
        peft.VeraConfig(r=20, d_initial=0.1, vera_dropout=0.5),
    ),
    "pissa": (
        ksa.PiSSA(rank=RANK, alpha=6),
        peft.LoraConfig(r=RANK, lora_alpha=6, init_lora_weights="pissa"),
    ),
}
TRAINED = {
    "lora_a": "lora_A.default.weight",
    "lora_b": "lora_B.default.weight",
    "magnitude": "lora_magnitude_vector.default.weight",
    "lambda_d": "vera_lambda_d.default",
    "lambda_b": "vera_lambda_b.default",
}


class Mask(torch.nn.Module):
    """Dropout with a mask that is given."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, x):
        return x * self.mask if self.training else x


def theirs(config):
    """The model of PEFT around one linear layer, and the module that it adapted."""
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(M, N))
    config = copy.deepcopy(config)
    config.target_modules = ["0"]
    plain = base[0].weight.detach().numpy().copy(), base[0].bias.detach().numpy().copy()
    model = peft.get_peft_model(base, config)
    return model, model.base_model.model[0], plain


def ours(method, plain):
    layer = keras.layers.Dense(N)
    layer.build((None, M))
    layer.kernel.assign(plain[0].T)
    layer.bias.assign(plain[1])
    return getattr(ksa.layers, f"{type(method).__name__}Dense")(layer, **method.get_config())


def agree(layer, module):
    """Moves PEFT's trained values, and gives ours the same ones."""
    adapter = layer.base_layer.adapter()
    signs = 1.0
    if "start_a" in adapter.arrays:  # singular vectors have a sign each
        a = module.lora_A["default"].weight.detach().numpy()
        b = module.lora_B["default"].weight.detach().numpy()
        close((b @ a).T, numpy(adapter.start_a) @ numpy(adapter.start_b), 1e-5)
        signs = np.sign((a.T * numpy(adapter.start_a)).sum(axis=0))
    rng = np.random.default_rng(8)
    for ours_name, weight in adapter.trained.items():
        parameter = dict(module.named_parameters())[TRAINED[ours_name]]
        with torch.no_grad():
            noise = 0.1 * rng.normal(size=tuple(parameter.shape))
            parameter += torch.tensor(noise, dtype=parameter.dtype)
        weight.assign(in_keras_order(ours_name, parameter.detach().numpy(), signs))
    if adapter.shared is not None:
        adapter.shared.vera_a.assign(module.vera_A["default"].numpy().T)
        adapter.shared.vera_b.assign(module.vera_B["default"].numpy().T)
    return signs


def in_keras_order(name, value, signs):
    """PEFT holds the transposes."""
    if name == "lora_a":
        return value.T * signs
    return (value * signs).T if name == "lora_b" else value


@pytest.mark.parametrize(("method", "config"), CASES.values(), ids=CASES)
def test_against_peft(method, config, monkeypatch):
    model, module, plain = theirs(config)
    layer = ours(method, plain)
    signs = agree(layer, module)
    x, g = batch((6, M)), batch((6, N), seed=4)
    if method.dropout:
        mask = np.random.default_rng(2).choice([0.0, 2.0], size=x.shape).astype("float32")
        for attribute in ("lora_dropout", "vera_dropout"):
            if hasattr(module, attribute):
                getattr(module, attribute)["default"] = Mask(torch.tensor(mask))
        monkeypatch.setattr(
            keras.random, "dropout", lambda x, rate, seed: x * keras.ops.array(mask)
        )

    model.train()
    expected = model(torch.tensor(x))
    expected.backward(torch.tensor(g))
    close(numpy(layer(x, training=True)), expected.detach().numpy(), 1e-5)
    found = gradients(layer, x, g, training=True)
    for weight, gradient in zip(layer.trainable_weights, found, strict=True):
        parameter = dict(module.named_parameters())[TRAINED[weight.name]]
        close(gradient, in_keras_order(weight.name, parameter.grad.numpy(), signs), 1e-5)

    model.eval()
    merged = numpy(layer.merged_kernel())
    close(numpy(layer(x)), model(torch.tensor(x)).detach().numpy(), 1e-5)
    close(merged, model.merge_and_unload()[0].weight.detach().numpy().T, 1e-5)


def test_the_shared_pair_starts_as_in_peft():
    module = theirs(peft.VeraConfig(r=64, d_initial=0.1))[1]
    a, b = module.vera_A["default"].numpy(), module.vera_B["default"].numpy()
    start = ksa.VeRA(rank=64).start_shared({"vera_a": (M, 64), "vera_b": (64, N)})
    for here, there in ((start["vera_a"], a), (start["vera_b"], b)):
        assert abs(np.abs(here).max() / np.abs(there).max() - 1) < 0.02
        assert abs(here.std() / there.std() - 1) < 0.1


def test_lora_starts_as_in_peft():
    module = theirs(peft.LoraConfig(r=64, lora_alpha=64))[1]
    layer = keras.layers.Dense(N)
    layer.build((None, M))
    start = ksa.LoRA(rank=9).first_values(
        np.zeros((M, N)), "additive", np.random.default_rng(0), None, Statistics()
    )
    there = module.lora_A["default"].weight.detach().numpy()
    assert abs(start["lora_a"].std() / there.std() - 1) < 0.1
    assert np.abs(there).max() <= 1 / np.sqrt(M)
    assert np.abs(start["lora_a"]).max() <= 1 / np.sqrt(M)
    assert not np.any(module.lora_B["default"].weight.detach().numpy())


@pytest.mark.parametrize("name", ["lora", "rslora", "dora"])
def test_a_convolution(name):
    method, config = CASES[name][0], copy.deepcopy(CASES[name][1])
    config.target_modules = ["0"]
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Conv2d(4, 10, 3, stride=2))
    layer = keras.layers.Conv2D(10, 3, strides=2)
    layer.build((None, 9, 7, 4))
    layer.kernel.assign(base[0].weight.detach().numpy().transpose(2, 3, 1, 0))
    layer.bias.assign(base[0].bias.detach().numpy())
    layer = getattr(ksa.layers, f"{type(method).__name__}Dense")(layer, **method.get_config())
    model = peft.get_peft_model(base, config)
    module = model.base_model.model[0]
    parameters = dict(module.named_parameters())
    rng = np.random.default_rng(8)
    for weight in layer.trainable_weights:
        parameter = parameters[TRAINED[weight.name]]
        with torch.no_grad():
            parameter += 0.1 * torch.tensor(rng.normal(size=parameter.shape), dtype=torch.float32)
        weight.assign(of_patches(weight.name, parameter.detach().numpy()))

    x = batch((2, 9, 7, 4))
    y = model(torch.tensor(x.transpose(0, 3, 1, 2)))
    close(numpy(layer(x)), y.detach().numpy().transpose(0, 2, 3, 1), 1e-5)
    g = batch((2, 4, 3, 10), seed=4)
    (y * torch.tensor(g.transpose(0, 3, 1, 2))).sum().backward()
    for weight, gradient in zip(layer.trainable_weights, gradients(layer, x, g), strict=True):
        close(
            gradient, of_patches(weight.name, parameters[TRAINED[weight.name]].grad.numpy()), 1e-5
        )
    merged = model.merge_and_unload()[0].weight.detach().numpy().transpose(2, 3, 1, 0)
    close(numpy(layer.merged_kernel()), merged, 1e-5)


def of_patches(name, value):
    """PEFT's arrays of a convolution as those of the kernel as a matrix."""
    if name == "magnitude":
        return value.ravel()
    value = value.transpose(2, 3, 1, 0)
    return value.reshape(-1, value.shape[-1])
