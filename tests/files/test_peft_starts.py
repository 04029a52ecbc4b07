"""Starts of LoRA against those of PEFT, on the same weights and the same data."""

import dataclasses
import sys
from importlib.util import find_spec

import keras
import numpy as np
import peft
import pytest
import torch
from cases import numpy
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft.tuners.lora.loraga import preprocess_loraga

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of

pytestmark = pytest.mark.backend_free("PEFT runs on PyTorch; the starts are tested on each backend")

RNG = np.random.default_rng(6)
SIZES = {"first": (12, 10), "second": (10, 14)}
X = (RNG.normal(size=(64, 12)) * np.geomspace(2, 0.2, 12) + 0.4).astype("float32")
Y = RNG.normal(size=(64, 14)).astype("float32")


@pytest.fixture
def pair():
    """Two layers in both libraries."""
    layers = [keras.layers.Dense(n, name=name) for name, (_, n) in SIZES.items()]
    layers[0].activation = keras.activations.tanh
    model = keras.Sequential([keras.Input((12,)), *layers])
    model.compile(loss="mse")
    torches = {name: torch.nn.Linear(m, n) for name, (m, n) in SIZES.items()}
    for layer, other in zip(layers, torches.values(), strict=True):
        layer.kernel.assign(RNG.normal(size=layer.kernel.shape) / 3)
        other.weight.data = torch.tensor(numpy(layer.kernel).T.copy())
        other.bias.data = torch.tensor(numpy(layer.bias))
    return model, Pair(torches)


class Pair(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.first, self.second = layers["first"], layers["second"]

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def ours(model, start, data=None, rank=3, alpha=6, **options):
    method = ksa.LoRA(rank, alpha, start=start, **options)
    ksa.enable(model, method, targets=list(SIZES), calibrate=data)
    adapters = [adapters_of(model.get_layer(name))["default"] for name in SIZES]
    return [(numpy(a.lora_a), numpy(a.lora_b)) for a in adapters]


def theirs(model):
    layers = [getattr(model.base_model.model, name) for name in SIZES]
    pairs = [(layer.lora_A["default"].weight, layer.lora_B["default"].weight) for layer in layers]
    return [tuple(part.detach().numpy().T for part in pair) for pair in pairs]


def config(start, **settings):
    return peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=list(SIZES), init_lora_weights=start, **settings
    )


def largest_angle(one, other):
    """Between the spaces of the columns."""
    one, other = (np.linalg.qr(matrix.astype("float64"))[0] for matrix in (one, other))
    return np.linalg.norm(other - one @ (one.T @ other), 2)


def check_products(found, expected, tolerance=1e-4):
    """The spaces of both factors, and their product."""
    for (A, B), (A2, B2) in zip(found, expected, strict=True):
        assert largest_angle(A, A2) < 1e-3
        assert largest_angle(B.T, B2.T) < 1e-3
        np.testing.assert_allclose(A @ B, A2 @ B2, atol=tolerance * np.abs(A2 @ B2).max())


def test_olora(pair):
    model, other = pair
    before = numpy(model(X))
    wrapped = peft.get_peft_model(other, config("olora"))
    found, expected = ours(model, "olora"), theirs(wrapped)
    for one, two in zip(found, expected, strict=True):
        for factor, wanted in zip(one, two, strict=True):
            np.testing.assert_allclose(factor, wanted, atol=1e-5)
    np.testing.assert_array_equal(numpy(model(X)), before)
    np.testing.assert_allclose(wrapped(torch.tensor(X)).detach().numpy(), before, atol=1e-5)
    for name in SIZES:  # the same step from the same start
        layer = getattr(wrapped.base_model.model, name)
        layer.lora_B["default"].weight.data += 0.1
        adapter = adapters_of(model.get_layer(name))["default"]
        adapter.lora_b.assign_add(np.full(adapter.lora_b.shape, 0.1))
    after = numpy(model(X))
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(wrapped(torch.tensor(X)).detach().numpy(), after, atol=1e-4)


@pytest.mark.parametrize(("start", "mode"), [("corda", "ipm"), ("corda_kpm", "kpm")])
def test_corda(pair, start, mode, monkeypatch):
    if find_spec("attr") is None:  # PEFT takes a decorator from it that the standard library has
        monkeypatch.setitem(sys.modules, "attr", dataclasses)
    from peft.tuners.lora.corda import preprocess_corda

    model, other = pair
    settings = config("corda", corda_config=CordaConfig(corda_method=mode))
    preprocess_corda(other, settings, run_model=lambda: other(torch.tensor(X)))
    wrapped = peft.get_peft_model(other, settings)
    check_products(ours(model, start, X), theirs(wrapped), 1e-3)


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_eva(pair, rho):
    model, other = pair
    x = X / np.array([1, 1, *[20] * 10], "float32")  # two directions, and more behind the tanh
    rows = torch.tensor(x)
    settings = config("eva", eva_config=peft.EvaConfig(rho=rho))
    wrapped = peft.get_peft_model(other, settings)
    peft.initialize_lora_eva_weights(
        wrapped,
        [{"x": rows}, {"x": rows}],  # a second batch shows that it has converged
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None,
        show_progress_bar=False,
    )
    found, expected = ours(model, "eva", x, rho=rho), theirs(wrapped)
    for (A, B), (A2, B2) in zip(found, expected, strict=True):
        assert A.shape == A2.shape
        assert largest_angle(A, A2) < 1e-3
        assert not np.any(B)
        assert not np.any(B2)
    assert (len({A.shape[1] for A, _ in found}) > 1) == (rho > 1)
    for name in SIZES:
        layer = getattr(wrapped.base_model.model, name)
        method = adapters_of(model.get_layer(name))["default"].method
        assert layer.scaling["default"] == pytest.approx(method.scale)


def test_lora_ga(pair):
    model, other = pair
    rows, targets = torch.tensor(X), torch.tensor(Y)
    settings = config("lora_ga", lora_ga_config=LoraGAConfig())

    def step():
        torch.nn.functional.mse_loss(other(rows), targets).backward()

    preprocess_loraga(other, settings, step)
    wrapped = peft.get_peft_model(other, settings)
    found, expected = ours(model, "lora_ga", (X, Y)), theirs(wrapped)
    for (A, B), (A2, B2) in zip(found, expected, strict=True):
        for one, two in ((A, A2), (B.T, B2.T)):  # up to the sign of each triplet
            signs = np.sign((one * two).sum(axis=0))
            np.testing.assert_allclose(one * signs, two, atol=1e-3 * np.abs(two).max())
