"""Adapter files: what trains is what is saved, and a file restores the model."""

import importlib
import os
from importlib.util import find_spec

import keras
import keras_hub
import models
import numpy as np
import pytest
from adapter_files import tuned
from cases import EVERY_METHOD, shake
from fresh_process import fresh_process

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.files.archive import read_archive
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.trained_weights import base_weights

backend_free = pytest.mark.backend_free("the bytes are the same whichever backend wrote them")

ADAPTED = {
    name: case for name, case in EVERY_METHOD.items() if not (case.square_only or case.variant)
}


@pytest.mark.parametrize("name", ADAPTED)
def test_a_file_restores_the_model(name, tmp_path):
    method = ADAPTED[name].method
    backbone, x = tuned(method, train="*norm*")
    expected = models.output(backbone(x))
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    fresh, _ = models.bert()
    report = ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), expected)
    assert {w.path.split("/")[-1] for w in fresh.trainable_weights} == {
        w.path.split("/")[-1] for w in backbone.trainable_weights
    }
    assert str(method) in str(report)
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), expected)


@pytest.mark.parametrize("name", ADAPTED)
def test_the_file_holds_what_trains(name, tmp_path):
    backbone, _ = tuned(ADAPTED[name].method, train="pooled_dense")
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    saved = read_archive(tmp_path / "a.keras").values
    extra = {f"train/{key}" for key, _, w in base_weights(backbone) if w.trainable}
    assert {key for key in saved if key.startswith("train/")} == extra
    frozen = {"sample_U", "sample_Vt", "sample_K"}
    for site in adapted_sites(backbone):
        declared = adapters_of(site.layer)["default"].declared
        frozen |= {array for array, what in declared.items() if not what.trainable}
    trained = {key: v for key, v in saved.items() if key.split("/")[-1] not in frozen}
    assert len(trained) == len(backbone.trainable_weights)
    total = sum(value.size for value in trained.values())
    assert total == sum(int(np.prod(w.shape)) for w in backbone.trainable_weights)


def test_backbone_methods(tmp_path):
    backbone, x = models.bert()
    backbone.enable_svft(pattern="banded", d=2)
    shake(backbone)
    expected = models.output(backbone(x))
    backbone.save_adapter(tmp_path / "a.keras")
    other, _ = models.bert()
    other.load_adapter(tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(other(x)), expected)
    other.merge_adapter()
    np.testing.assert_allclose(models.output(other(x)), expected, atol=1e-5)
    other.enable_svf(targets="query")
    third, _ = models.bert()
    third.enable_adapter(ksa.LoRA(rank=2))
    assert [w.name for w in third.trainable_weights[:2]] == ["lora_a", "lora_b"]


@backend_free
def test_other_backends_read_the_file(tmp_path):
    backbone, x = tuned(ksa.SVFT(pattern="random", d=2, seed=3), train="*norm*")
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    expected = models.output(backbone(x))
    backends = {name for name in ("jax", "tensorflow", "torch") if find_spec(name)}
    others = backends - {keras.backend.backend()}
    runs = [fresh_process("load_elsewhere.py", tmp_path, KERAS_BACKEND=b) for b in sorted(others)]
    for run in runs:
        assert run.wait() == 0
    for backend in others:
        np.testing.assert_allclose(np.load(tmp_path / f"{backend}.npy"), expected, atol=1e-5)


def test_identical_content_gives_identical_bytes(tmp_path):
    backbone, _ = tuned(ksa.SVF())
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    ksa.save_adapter(backbone, tmp_path / "b.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.keras", "b.keras"]


@pytest.mark.parametrize(
    ("method", "most"), [(ksa.SVF(), 80_000), (ksa.SVFT(pattern="banded", d=2), 350_000)]
)
def test_sizes(method, most, tmp_path):
    """The 36 kernels of MiniLM."""
    backbone = keras_hub.models.BertBackbone(models.TOKENS, 6, 12, 384, 1536)
    ksa.enable(backbone, method)
    shake(backbone)
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    assert 36 * 384 * 4 < (tmp_path / "a.keras").stat().st_size < most


def test_numbers_of_numpy_are_numbers(tmp_path):
    backbone, x = tuned(ksa.LoRA(rank=2, alpha=np.float32(4)))
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    fresh, _ = models.bert()
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), models.output(backbone(x)))


def test_values_that_are_not_finite_are_told(tmp_path):
    backbone, _ = tuned(ksa.SVF())
    weight = backbone.trainable_weights[0]
    weight.assign(np.full(weight.shape, np.nan))
    with pytest.warns(UserWarning, match="NaN or infinite.*Received: "):
        ksa.save_adapter(backbone, tmp_path / "a.keras")
    with pytest.warns(UserWarning, match="NaN or infinite.*Received: "):
        ksa.load_adapter(models.bert()[0], tmp_path / "a.keras")


def test_what_fails_leaves_no_litter(tmp_path, monkeypatch):
    backbone, _ = tuned(ksa.SVF())
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    (tmp_path / "link.keras").symlink_to(tmp_path / "a.keras")
    ksa.save_adapter(backbone, tmp_path / "link.keras")
    assert (tmp_path / "link.keras").is_symlink()
    monkeypatch.setattr(os, "fsync", lambda handle: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ksa.save_adapter(backbone, tmp_path / "b.keras")
    assert sorted(os.listdir(tmp_path)) == ["a.keras", "link.keras"]


@pytest.mark.parametrize("name", ["svft_banded", "svf", "lora_xs", "lora"])
def test_a_file_with_its_factors(name, tmp_path, monkeypatch):
    backbone, x = tuned(EVERY_METHOD[name].method)
    ksa.save_adapter(backbone, tmp_path / "a.keras", include_basis=True)
    monkeypatch.setattr(
        importlib.import_module("keras_svd_adapters.kernels.svd.service"), "decompose", None
    )  # there is none
    fresh, _ = models.bert()
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), models.output(backbone(x)))


def test_names_of_adapters(tmp_path):
    backbone, _ = tuned(ksa.SVF())
    ksa.enable(backbone, ksa.LoRA(rank=2), name="pirate")
    with pytest.raises(ValueError, match="several adapters"):
        ksa.save_adapter(backbone, tmp_path / "a.keras")
    ksa.save_adapter(backbone, tmp_path / "a.keras", name="pirate")
    with pytest.raises(ksa.AdapterFileError, match="another method"):
        ksa.load_adapter(backbone, tmp_path / "a.keras", name="default")
    ksa.load_adapter(backbone, tmp_path / "a.keras", name="third")
    with pytest.raises(ValueError, match="'default', 'pirate', 'third'"):
        ksa.save_adapter(backbone, tmp_path / "b.keras", name="fourth")
