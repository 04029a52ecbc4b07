"""`quantize` with errors weighted by data, and with a budget of bits."""

from itertools import product

import keras
import numpy as np
import pytest
from cases import batch, numpy
from keras.quantizers import Int4QuantizationConfig
from quantized_layers import norm

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.error_weights import PLAIN
from keras_svd_adapters.kernels.quantized import mode_of
from keras_svd_adapters.models.quantization.residual_fit import fit_factors
from keras_svd_adapters.models.quantization.storage_choice import all_storages
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.runtime.host_values import to_host_exact

METHOD = ksa.LoRA(rank=2, alpha=4)
NF4 = ["nf4/256", "nf4/64", "nf4/32"]
HAS_GROUPS = hasattr(Int4QuantizationConfig(), "block_size")


def model_and_data():
    """Inputs of very different sizes, and several kernels; one matters most."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(size, name=f"d{i}") for i, size in enumerate((24, 32, 8))]
    model = keras.Sequential([keras.Input((32,)), *layers, keras.layers.Dense(3, name="head")])
    model.get_layer("d1").kernel.assign(20 * numpy(model.get_layer("d1").kernel))
    model.compile("sgd", "mse")
    x = batch((40, 32)) * np.exp(2 * batch((32,), seed=3))
    return model, x.astype("float32"), batch((40, 3), seed=4)


def errors_of(model, before, weights, names):
    """The weighted errors of kernels with their factors, relative to the weighted kernels."""
    found = []
    for name in names:
        layer, K, w = model.get_layer(name), before[name], weights[name]
        Q = find_sites(layer)[0].matrix()
        A, B = (numpy(layer.adapter().trained[each]) for each in ("lora_a", "lora_b"))
        squares = [(w * E.astype("float64") ** 2).sum() for E in (Q + 2 * A @ B - K, K)]
        found.append(np.sqrt(squares[0] / squares[1]))
    return found


@pytest.mark.parametrize("kind", ["inputs", "fisher"])
def test_data_weighs_the_errors(kind):
    names = ("d0", "d1")
    for error_weights in (kind, None):
        model, x, y = model_and_data()
        data = (x, y) if kind == "fisher" else x
        before = {n: numpy(model.get_layer(n).kernel) for n in names}
        what = "squared_gradients" if kind == "fisher" else "magnitudes"
        seen = ksa.observe(model, data, what, targets=names)
        weights = {
            n: seen[n].squared_gradients
            if kind == "fisher"
            else seen[n].magnitudes.absolute[:, None] ** 2
            for n in names
        }
        calibrate = {"calibrate": data, "error_weights": kind} if error_weights else {}
        report = ksa.quantize(model, "int4", METHOD, targets=names, **calibrate)
        told = [kernel.error for kernel in report.kernels]
        found = errors_of(model, before, weights, names)
        if error_weights:
            np.testing.assert_allclose(told, found, rtol=1e-3)
            best = found
        elif kind == "inputs":  # of equal integers, since one iteration of LoftQ changes none
            assert all(a < 0.99 * b for a, b in zip(best, found, strict=True))


@pytest.mark.skipif(not HAS_GROUPS, reason="This Keras has no groups")
def test_each_kernel_gets_the_storage_that_the_budget_allows(tmp_path):
    names, bits = ("d0", "d1", "d2"), 8.2
    model, _, y = model_and_data()
    x = batch((40, 32))  # inputs of one size: int8 rounds them as well
    sites = [find_sites(model.get_layer(name))[0] for name in names]
    storages = all_storages(["int4", "int8", "nf4"])
    fits = [[fit_factors(s, each, METHOD, "loftq", 1, PLAIN) for each in storages] for s in sites]
    values = [site.view.m * site.view.n for site in sites]

    def cost(chosen):
        picked = [fits[i][c] for i, c in enumerate(chosen)]
        within = 8 * sum(each.bytes for each in picked) <= bits * sum(values)
        return sum(each.factors.error**2 for each in picked) if within else np.inf

    best = min(product(range(len(storages)), repeat=3), key=cost)
    floats = numpy(model(x))
    report = ksa.quantize(model, ["int4", "int8", "nf4"], METHOD, targets=names, bits=bits)
    chosen = [kernel.storage for kernel in report.kernels]
    names_of = [
        [fit.as_row(s).storage for fit in each] for s, each in zip(sites, fits, strict=True)
    ]
    assert names_of[0] == ["int4", "int4/32", "int4/32", "int4/32", "int4/16", "int8", *NF4]
    numbers = [each.index(name) for each, name in zip(names_of, chosen, strict=True)]
    assert cost(numbers) <= cost(best) * (1 + 1e-4)
    assert len(set(chosen)) > 1
    assert "int8" in chosen[1]
    assert report.bits <= bits
    found = 8 * sum(
        sum(to_host_exact(w).nbytes for w in site.layer.non_trainable_weights if w.name != "bias")
        for site in sites
    )
    np.testing.assert_allclose(report.bits, found / sum(values), rtol=1e-6)
    assert mode_of(model.get_layer("head")) is None
    assert norm(numpy(model(x)), floats) < 0.15
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    losses = model.fit(x, y, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(loaded(x)), numpy(model(x)), rtol=1e-5, atol=1e-5)
    assert "bits a value" in str(report)


@pytest.mark.backend_free("arguments")
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"bits": 2.5}, r"needs .* bits a value.*use `bits=\d.*Received: bits=2.5"),
        ({"bits": -1}, "positive number"),
        ({"bits": 5, "mode": []}, "at least one mode"),
        ({"bits": 5, "config": Int4QuantizationConfig()}, "leave `config` out"),
        ({"bits": 5, "mode": ["int4", "float8"]}, "`mode` is one of"),
        ({"mode": ["int4", "int8"]}, "Several modes need a budget"),
        ({"error_weights": "inputs"}, "`calibrate=x`.*calibrate=None"),
        ({"error_weights": "fisher"}, r"`calibrate=\(x, y\)`"),
        ({"error_weights": "hessian"}, "one of .'inputs', 'fisher'."),
        ({"calibrate": np.ones((2, 32))}, "no effect without weights"),
        ({"calibrate": np.ones((2, 32)), "error_weights": "fisher"}, "needs targets"),
        ({"calibrate": np.full((2, 32), np.nan), "error_weights": "inputs"}, "NaN"),
    ],
)
def test_what_data_and_budgets_refuse(how, told):
    model, _, _ = model_and_data()
    before = {w.path: to_host_exact(w) for w in model.weights}
    with pytest.raises(ValueError, match=told):
        ksa.quantize(model, **({"mode": "int4", "method": METHOD, "targets": "d*"} | how))
    assert {w.path for w in model.weights} == before.keys()
    for weight in model.weights:
        np.testing.assert_array_equal(to_host_exact(weight), before[weight.path])
