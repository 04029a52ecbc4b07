"""Starts of LoRA's factors, and frozen factors."""

import keras
import models
import numpy as np
import pytest
from autodiff import gradients
from cases import DTYPES, KERNELS, adapted, batch, build_layer, combinations, numpy, shake
from method_case import MethodCase
from snapshots import refused

import keras_svd_adapters as ksa
from keras_svd_adapters.methods.low_rank.starts import WITHOUT_DATA
from keras_svd_adapters.methods.statistics import Statistics

STARTS = [
    (start, freeze)
    for start in WITHOUT_DATA
    for freeze in (None, "a", "b")
    if freeze is None or freeze != WITHOUT_DATA[start].zero
]
NAMES = {f"{start}-{freeze}": (start, freeze) for start, freeze in STARTS}
RANDOM = [name for name in NAMES if name.endswith("-a") and not name.startswith("olora")]
KERNEL = np.random.default_rng(2).normal(size=(24, 10)).astype("float32")


def case_of(name):
    start, freeze = NAMES[name]
    return MethodCase(ksa.LoRA(rank=4, alpha=6, start=start, freeze=freeze), None)


def first_values(rng=0, K=KERNEL, **options):
    method = ksa.LoRA(rank=4, **options)
    return method.first_values(K, "additive", np.random.default_rng(rng), None, Statistics())


@pytest.mark.optimized("equal in every bit")
@pytest.mark.parametrize(("name", "kernel", "dtype"), combinations(NAMES, KERNELS, DTYPES))
def test_each_start_equals_its_base_and_learns(name, kernel, dtype):
    build, shape = KERNELS[kernel]
    layer, x = build_layer(build, dtype), batch(shape)
    before = numpy(layer(x))
    layer = adapted(case_of(name), layer)
    np.testing.assert_array_equal(numpy(layer(x)), before)
    assert len(layer.trainable_weights) == (2 if NAMES[name][1] is None else 1)
    found = gradients(layer, x, batch(before.shape, seed=4))
    assert any(np.abs(gradient).max() > 1e-3 for gradient in found)


def test_olora_starts_at_the_factors_of_qr():
    Q, T = np.linalg.qr(KERNEL.T.astype("float64"))
    values = first_values(start="olora")
    np.testing.assert_allclose(values["lora_b"], Q[:, :4].T, atol=1e-6)
    np.testing.assert_allclose(values["lora_a"], T[:4].T, atol=1e-5)


def test_what_random_starts_are():
    large = np.zeros((500, 400), "float32")
    assert abs(first_values(K=large, start="gaussian")["lora_a"].std() - 1 / 4) < 0.02
    assert abs(first_values(K=large, start="init_b")["lora_b"].std() - 1 / 2) < 0.04
    a = first_values(start="orthonormal")["lora_a"]
    np.testing.assert_allclose(a.T @ a, np.eye(4), atol=1e-12)
    both = first_values(start="orthogonal")
    np.testing.assert_allclose(both["lora_a"] @ both["lora_b"], 0, atol=1e-12)
    assert np.abs(both["lora_a"]).max() > 0.1 < np.abs(both["lora_b"]).max()
    a = first_values(start="nystrom")["lora_a"]
    inside = KERNEL @ np.linalg.lstsq(KERNEL, a, rcond=None)[0]
    np.testing.assert_allclose(inside, a, atol=1e-5)
    assert 0.5 < a.std() / KERNEL.std() < 2


@pytest.mark.parametrize("name", RANDOM)
def test_a_frozen_factor_is_the_same_in_each_adapter(name):
    start, freeze = NAMES[name]
    one, other = (first_values(rng, start=start, freeze=freeze) for rng in (0, 1))
    np.testing.assert_array_equal(one["lora_a"], other["lora_a"])
    third = first_values(start=start, freeze=freeze, seed=1)
    assert np.abs(one["lora_a"] - third["lora_a"]).max() > 0.01


def test_the_numbers_of_a_seed():
    found = first_values(freeze="a")["lora_a"]
    np.testing.assert_allclose(found[0, :2] * 24**0.5, [-0.97690654, -0.5169016], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_the_factors(name, tmp_path):
    model, x = models.bert()
    ksa.enable(model, case_of(name).method)
    shake(model)
    expected = models.output(model(x))
    ksa.save_adapter(model, tmp_path / "start.keras")
    fresh, _ = models.bert()
    ksa.load_adapter(fresh, tmp_path / "start.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), expected)


def test_a_file_with_every_factor_needs_no_decomposition(tmp_path, monkeypatch):
    model, x = models.bert()
    ksa.enable(model, ksa.PiSSA(rank=2), cache=False)
    shake(model)
    ksa.save_adapter(model, tmp_path / "pissa.keras")
    fresh, _ = models.bert()
    monkeypatch.setattr(np.linalg, "svd", None)
    ksa.load_adapter(fresh, tmp_path / "pissa.keras", cache=False)
    np.testing.assert_array_equal(models.output(fresh(x)), models.output(model(x)))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("kaiming-None")])
def test_an_embedding(name):
    layer = keras.layers.Embedding(20, 6, name="words")
    model = keras.Sequential([keras.Input((5,), dtype="int32"), layer])
    ids = np.arange(10).reshape(2, 5)
    before = numpy(model(ids))
    ksa.enable(model, case_of(name).method, targets="words")
    np.testing.assert_array_equal(numpy(model(ids)), before)
    assert any(np.abs(g).max() > 0 for g in gradients(model, ids, np.ones((2, 5, 6), "float32")))


REFUSED = {
    "no such start": ({"start": "zeros"}, "`start` must be one of"),
    "no such factor": ({"freeze": "c"}, "`freeze` must be one of"),
    "the zero factor": ({"freeze": "b"}, "would never change"),
    "the other zero factor": ({"start": "init_b", "freeze": "a"}, "would never change"),
    "an odd rank": ({"rank": 3, "start": "orthogonal"}, "use `rank=4`"),
    "no seed": ({"seed": -1}, "`seed` must not be negative"),
}


@pytest.mark.parametrize(("options", "match"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(options, match):
    with pytest.raises(ValueError, match=match + ".*Received: "):
        ksa.LoRA(**options)


def test_twice_the_rank_must_fit():
    model, _ = models.bert()
    with refused(model, "use `rank=8` or less"):
        ksa.enable(model, ksa.LoRA(rank=9, start="lora_ga"))
