"""Decompositions that are kept on disk: a warm one is the cold one, bit for bit."""

import importlib

import keras
import models
import numpy as np
import pytest
from decompositions import backend_free, equal, kernels

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.svd import cache as svd_cache
from keras_svd_adapters.kernels.svd.decomposition import Decomposition, decompose
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.contract import Truncation
from keras_svd_adapters.models.sites.search import adapted_sites

service_module = importlib.import_module("keras_svd_adapters.kernels.svd.service")
accelerator_module = importlib.import_module("keras_svd_adapters.kernels.svd.accelerator")


pytestmark = pytest.mark.usefixtures("every_kernel_is_kept")


@pytest.fixture
def decomposed(monkeypatch):
    """The shapes that were decomposed."""
    shapes = []

    def noted(K, part=None):
        shapes.append(K.shape)
        return decompose(K, part)

    monkeypatch.setattr(service_module, "decompose", noted)
    return shapes


@backend_free
def test_methods_share_entries(decomposed):
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.PiSSA(rank=2))
    assert len(decomposed) == 12
    ksa.delete_adapter(backbone, "default")
    for method in (ksa.SVFT(pattern="banded", d=2), ksa.MiLoRA(rank=2), ksa.LoRAXS(rank=2)):
        ksa.enable(backbone, method)
        ksa.delete_adapter(backbone, "default")
    assert len(decomposed) == 12
    ksa.enable(backbone, ksa.SVF(), cache=False)
    assert len(decomposed) == 24


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (16, 16)])
@pytest.mark.parametrize("kind", ["ordinary", "ill-conditioned", "singular"])
def test_warm_is_cold_bit_for_bit(shape, kind):
    K = np.random.default_rng(0).normal(size=shape).astype("float32")
    if kind != "ordinary":
        U, s, Vt = np.linalg.svd(K, full_matrices=False)
        s[-1] = 1e-3 * s[0] if kind == "ill-conditioned" else 0
        K = (U * s @ Vt).astype("float32")
    service = SVDService()
    cold, warm = service.decompose(K), service.decompose(K)
    assert warm is not cold
    assert isinstance(warm, Decomposition) == (kind != "singular")
    equal(cold, warm)
    entry = next(svd_cache.default_folder().iterdir())
    assert entry.stat().st_size < 8 * (min(shape) ** 2 + min(shape)) + 500 or kind == "singular"


def test_an_adapter_is_the_same_with_and_without_the_cache():
    outputs = []
    for cache in (True, True, False):
        backbone, x = models.bert()
        keras.utils.set_random_seed(3)
        ksa.enable(backbone, ksa.SVFT(pattern="top_k", d=1), ["query", "key"], cache=cache)
        for site in adapted_sites(backbone):
            site.layer.adapter().m.assign(np.linspace(-1, 1, site.layer.adapter().m.shape[0]))
        outputs.append(models.output(backbone(x)))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


@backend_free
@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "other arrays", "text"])
def test_damaged_entries_are_made_anew(damage, decomposed):
    K = kernels(1)[0]
    service = SVDService()
    right = service.decompose(K)
    path = next(svd_cache.default_folder().iterdir())
    data = bytearray(path.read_bytes())
    if damage == "other arrays":
        other = svd_cache.entry(kernels(1, seed=1)[0], path.parent)
        service.decompose(kernels(1, seed=1)[0])
        data = bytearray(other.read_bytes())
        data[-9] ^= 1
    data = {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "flipped": bytes(data[:-5]) + bytes([data[-5] ^ 8]) + bytes(data[-4:]),
        "other arrays": data,
        "text": b"nothing of the kind",
    }[damage]
    path.write_bytes(data)
    before = len(decomposed)
    with pytest.warns(UserWarning, match="damaged.*decomposed again.*Received: "):
        equal(service.decompose(K), right)
    assert len(decomposed) == before + 1
    equal(service.decompose(K), right)
    assert len(decomposed) == before + 1


@backend_free
@pytest.mark.parametrize(("kind", "entries"), [("gpu", 1), ("tpu", 2)])
def test_a_tpu_has_entries_of_its_own_and_a_gpu_those_of_the_host(
    kind, entries, monkeypatch, decomposed
):
    for module in (service_module, accelerator_module):
        monkeypatch.setattr(module, "accelerator", lambda: kind)
    K = kernels(1)[0]
    SVDService(device="accelerator").decompose(K)
    assert svd_cache.info().entries == 1
    found, right = SVDService(device="cpu").decompose(K), decompose(K)
    np.testing.assert_allclose(found.U, right.U, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.Vt, right.Vt, rtol=0, atol=1e-6)
    assert svd_cache.info().entries == entries
    assert len(decomposed) == entries - 1


@backend_free
def test_the_largest_triplets_do_not_depend_on_the_cache():
    K = np.random.default_rng(0).normal(size=(300, 300)).astype("float32")
    part = Truncation(4, 8, 0)
    first = SVDService().decompose(K, part)
    SVDService().decompose(K)
    equal(SVDService().decompose(K, part), first)


@backend_free
def test_interrupted_the_cache_is_whole(monkeypatch, decomposed):
    backbone, x = models.bert()
    y = models.output(backbone(x))
    with monkeypatch.context() as patched:
        calls = []

        def interrupted(K, part=None):
            calls.append(K)
            if len(calls) == 6:
                raise KeyboardInterrupt
            return decompose(K, part)

        patched.setattr(service_module, "decompose", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ksa.enable(backbone, ksa.SVF())
    assert not adapted_sites(backbone)
    np.testing.assert_array_equal(models.output(backbone(x)), y)
    ksa.enable(backbone, ksa.SVF())
    assert len(decomposed) <= 12 - 4
