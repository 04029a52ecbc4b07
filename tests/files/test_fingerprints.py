"""Marks of kernels and singular vectors in a file show whether it fits a model."""

import importlib
import re

import keras
import models
import numpy as np
import pytest
from adapter_files import refuses, tuned

import keras_svd_adapters as ksa
from keras_svd_adapters.files.fingerprints import KERNEL_SAMPLES, _every, factor_sample, same_factor
from keras_svd_adapters.kernels.svd.decomposition import Triplets


def test_flipped_singular_vectors_are_refused(tmp_path, monkeypatch):
    service = importlib.import_module("keras_svd_adapters.kernels.svd.service")
    backbone, _ = tuned(ksa.SVFT(pattern="banded", d=1))
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    right = service.decompose

    def flipped(K, part=None):
        found = right(K)
        sign = np.where(np.arange(len(found.s)) == 1, -1.0, 1.0)
        return Triplets(found.U * sign, found.s, found.Vt * sign[:, None])

    monkeypatch.setattr(service, "decompose", flipped)
    fresh, _ = models.bert()
    refuses(fresh, tmp_path / "a.keras", "singular vectors")


@pytest.mark.parametrize("method", [ksa.SVF(), ksa.SVFT()])
def test_equal_singular_values_are_marked(method, tmp_path, monkeypatch):
    def build():
        model = keras.layers.Dense(8, use_bias=False)
        model.build((None, 8))
        hadamard = np.array([[1.0]])
        for _ in range(3):
            hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
        model.kernel.assign(hadamard)
        return model

    tuned_layer = build()
    ksa.enable(tuned_layer, method)
    ksa.save_adapter(tuned_layer, tmp_path / "a.keras")
    ksa.load_adapter(build(), tmp_path / "a.keras")
    svd = importlib.import_module("keras_svd_adapters.kernels.svd.decomposition")
    monkeypatch.setattr(svd, "_by_gram", lambda K: None)
    with pytest.raises(ksa.AdapterFileError, match="singular vectors"):
        ksa.load_adapter(build(), tmp_path / "a.keras")


@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVF(), ksa.SVFT(pattern="banded", d=2)])
def test_another_precision(method, tmp_path):
    half, x = tuned(method, family=lambda: models.bert("bfloat16"))
    ksa.save_adapter(half, tmp_path / "a.keras", include_basis=method.basis_matters)
    full, _ = models.bert()
    words = r"trained on bfloat16 .* are float32 and differ by (\d\S+) of"
    with pytest.warns(UserWarning, match=words) as told:
        ksa.load_adapter(full, tmp_path / "a.keras")
    message = next(str(w.message) for w in told if "trained on" in str(w.message))
    far = float(re.search(words, message)[1])
    assert 1e-4 < far < 5e-3
    expected = models.output(half(x))
    found = models.output(full(x))
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
    plain = models.output(models.bert()[0](x))
    assert np.linalg.norm(found - plain) > 0.1 * np.linalg.norm(expected)


def test_another_precision_has_other_singular_vectors(tmp_path):
    half, _ = tuned(ksa.LoRAXS(rank=4), family=lambda: models.bert("bfloat16"))
    ksa.save_adapter(half, tmp_path / "a.keras")
    full, _ = models.bert()
    with pytest.warns(UserWarning, match="trained on bfloat16"):
        refuses(full, tmp_path / "a.keras", "on bfloat16 kernels and these", "include_basis=True")


@pytest.mark.parametrize("angle", [np.pi, 1e-3])
def test_marks_see_every_rotation(angle):
    U = np.linalg.qr(np.random.default_rng(0).normal(size=(300, 300)))[0].astype("float32")
    mark = factor_sample(U)
    rng = np.random.default_rng(1)
    assert same_factor(factor_sample(U + rng.normal(size=U.shape) * 1e-7), mark, "float32")
    for i in range(299):
        turned = U.copy()
        c, s = np.cos(angle), np.sin(angle)
        turned[:, i : i + 2] = U[:, i : i + 2] @ np.array([[c, s], [-s, c]], "float32")
        assert not same_factor(factor_sample(turned), mark, "float32"), i


@pytest.mark.parametrize("shape", [(4096, 1001), (768, 768), (100, 200), (6, 6)])
def test_kernel_marks_lie_everywhere(shape):
    matrix = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    rows, columns = np.unravel_index(_every(matrix, KERNEL_SAMPLES).astype(int), shape)
    assert len(rows) > 1000 or len(rows) == matrix.size
    assert len(set(columns)) > 0.6 * shape[1]
    assert len(set(rows)) > 0.6 * min(shape[0], KERNEL_SAMPLES)


def test_a_hash_of_every_value(tmp_path):
    layer = keras.layers.Dense(200, use_bias=False)
    layer.build((None, 100))
    ksa.enable(layer, ksa.LoRA(rank=2))
    kernel = layer.base_kernel
    for full, words in ((False, None), (True, "other values")):
        ksa.save_adapter(layer, tmp_path / "a.keras", full_hash=full)
        before = kernel.numpy()
        changed = before.copy()
        changed[0, 1] += 1  # not among the samples
        kernel.assign(changed)
        if words is None:
            ksa.load_adapter(layer, tmp_path / "a.keras")
        else:
            with pytest.raises(ksa.AdapterFileError, match=words):
                ksa.load_adapter(layer, tmp_path / "a.keras")
        kernel.assign(before)
