"""Decompositions of many kernels: in order, side by side, interruptible and shown."""

import importlib
import threading
import time

import keras
import models
import numpy as np
import pytest
from decompositions import backend_free, equal, jobs, kernels
from threadpoolctl import threadpool_info, threadpool_limits

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.svd.accelerator import AcceleratedDecomposition, accelerator
from keras_svd_adapters.kernels.svd.decomposition import decompose
from keras_svd_adapters.kernels.svd.job import Job
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.contract import Truncation
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.runtime import processes

service_module = importlib.import_module("keras_svd_adapters.kernels.svd.service")
accelerator_module = importlib.import_module("keras_svd_adapters.kernels.svd.accelerator")


pytestmark = pytest.mark.usefixtures("every_kernel_is_kept")


@backend_free
@pytest.mark.parametrize("cores", [1, 4])
def test_in_order_whatever_the_number_of_workers(cores, monkeypatch):
    monkeypatch.setattr(service_module, "cores", lambda: cores)
    matrices = kernels()
    found = list(SVDService(cache=False).each(jobs(matrices)))
    assert len(found) == len(matrices)
    for K, (again, svd) in zip(matrices, found, strict=True):
        assert again is K
        equal(svd, decompose(K))


@backend_free
def test_no_more_kernels_at_a_time_than_workers(monkeypatch):
    monkeypatch.setattr(service_module, "cores", lambda: 2)
    brought, running, most = [], [], []
    lock = threading.Lock()

    def slowly(K, part=None):
        with lock:
            running.append(K)
            most.append(len(running))
        time.sleep(0.05)
        with lock:
            running.pop()
        return decompose(K)

    monkeypatch.setattr(service_module, "decompose", slowly)
    work = [
        Job(lambda i=i, K=K: (brought.append(i), K)[1], K.shape, None)
        for i, K in enumerate(kernels(8))
    ]
    for i, _ in enumerate(SVDService(cache=False).each(work)):
        assert len(brought) <= i + 3
    assert max(most) == 2


@backend_free
def test_memory_bounds_the_workers(monkeypatch):
    monkeypatch.setattr(service_module, "cores", lambda: 64)
    work = jobs([np.ones((100, 100), "float32")] * 80)
    monkeypatch.setattr(service_module, "free_bytes", lambda: 9 * 40_000 * 5)
    assert SVDService().workers(work) == 5
    monkeypatch.setattr(service_module, "free_bytes", lambda: 0)
    assert SVDService().workers(work) == 1
    assert SVDService().workers(jobs(kernels(3), is_required=False)) == 1


@backend_free
def test_what_one_worker_raises_ends_them_all(monkeypatch):
    monkeypatch.setattr(service_module, "cores", lambda: 3)
    backbone, _ = models.bert()
    weights = [(w.path, w.trainable) for w in backbone.weights]
    layer = backbone.get_layer("transformer_layer_1")._feedforward_output_dense
    layer.kernel.assign(np.full((32, 16), np.nan))
    with pytest.raises(ValueError, match="feedforward_output_dense`: .*NaN.*Received: 512"):
        ksa.enable(backbone, ksa.SVF())
    assert [(w.path, w.trainable) for w in backbone.weights] == weights


@backend_free
def test_threads_are_never_more_than_before():
    with threadpool_limits(1, user_api="blas"):
        for _ in SVDService(cache=False).each(jobs(kernels(3))):
            assert {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"} == {1}


@backend_free
def test_progress_in_a_pipe(capsys):
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF(), verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 10
    assert lines[-1].startswith("12/12 kernels, 100%, transformer_layer_1/")
    assert not any("\r" in line or "\x1b" in line for line in lines)
    for verbose in ("auto", 0):
        ksa.delete_adapter(backbone, "default")
        ksa.enable(backbone, ksa.SVF(), verbose=verbose)
        assert capsys.readouterr().out == ""


@backend_free
def test_progress_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF(), verbose=0)
    assert capsys.readouterr().out == ""
    ksa.delete_adapter(backbone, "default")
    ksa.enable(backbone, ksa.SVF())
    shown = capsys.readouterr().out
    assert "12/12" in shown
    assert "100%" in shown
    assert "transformer_layer_1/" in shown


def test_an_accelerator(monkeypatch):
    backbone, x = models.bert()
    with pytest.raises(ValueError, match="`svd_device` must be one of.*Received: "):
        ksa.enable(backbone, ksa.SVF(), svd_device="moon")
    if accelerator() is None:
        with pytest.raises(ValueError, match="no GPU or TPU.*Received: "):
            ksa.enable(backbone, ksa.SVF(), svd_device="accelerator")
    assert not adapted_sites(backbone)
    monkeypatch.setattr(service_module, "accelerator", lambda: "gpu")
    monkeypatch.setattr(service_module, "require_accelerator", lambda: None)
    y = models.output(backbone(x))
    ksa.enable(backbone, ksa.SVF(), svd_device="auto", cache=False)
    np.testing.assert_array_equal(models.output(backbone(x)), y)
    for K in kernels(3):
        service = SVDService(device="accelerator", cache=False)
        part = Truncation(rank=3, oversampling=4, seed=0)
        found, right = service.decompose(K), decompose(K)
        assert [len(service.decompose(K, part).s), service.decompose(K, part).U.shape[1]] == [3, 3]
        assert isinstance(found, AcceleratedDecomposition)
        assert found.U.dtype == found.Vt.dtype == K.dtype
        np.testing.assert_allclose(found.s, right.s, rtol=1e-12)
        np.testing.assert_allclose(found.U, right.U, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.Vt, right.Vt, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fails", ["eigh", "transpose"])
def test_an_accelerator_without_memory_leaves_the_work_to_the_host(fails, monkeypatch):
    K = kernels(1)[0]
    service = SVDService(device="accelerator", cache=False)
    found = service.decompose(K)

    def out_of_memory(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(accelerator_module.ops, fails, out_of_memory)
    with pytest.warns(UserWarning, match="so the host does.*Received: .*RESOURCE_EXHAUSTED"):
        again = (service.decompose(K) if fails == "eigh" else found).part(slice(None))
    right = decompose(K)
    np.testing.assert_allclose(again.U, right.U, rtol=0, atol=1e-6)
    np.testing.assert_allclose(again.Vt, right.Vt, rtol=0, atol=1e-6)


def test_a_kernel_that_is_nearly_singular_goes_to_the_host(monkeypatch):
    K = np.ones((12, 20), "float32") + np.eye(12, 20, dtype="float32") * 1e-6
    found, right = SVDService(device="accelerator", cache=False).decompose(K), decompose(K)
    np.testing.assert_array_equal(found.s, right.s)
    np.testing.assert_array_equal(found.U, right.U)


@backend_free
def test_the_plan_knows_what_is_kept_and_who_works(monkeypatch):
    monkeypatch.setattr(service_module, "cores", lambda: 2)
    backbone, _ = models.bert()
    brought = []
    original = KernelView.to_matrix
    monkeypatch.setattr(
        KernelView, "to_matrix", lambda view, K: (brought.append(1), original(view, K))[1]
    )
    cold = ksa.plan(backbone, ksa.SVF())
    assert not brought
    assert not any(site.cached for site in cold.sites)
    assert cold.workers == 2
    assert cold.seconds == pytest.approx(sum(site.seconds for site in cold.sites) / 2)
    ksa.enable(backbone, ksa.PiSSA(rank=2), verbose=0)
    warm = ksa.plan(backbone, ksa.SVF())
    assert all(site.cached for site in warm.sites)
    assert 0 < warm.seconds < cold.seconds
    assert "in the cache" in str(warm)
    assert "in the cache" not in str(cold)
    assert not any(site.cached for site in ksa.plan(backbone, ksa.SVF(), cache=False).sites)
    assert not any(site.cached for site in ksa.plan(backbone, ksa.LoRA(rank=2)).sites)
    layer = adapted_sites(backbone)[0].layer
    layer.base_kernel.assign(layer.base_kernel * 2)
    changed = ksa.plan(backbone, ksa.SVF())
    assert [site.cached for site in changed.sites] == [False] + [True] * (len(warm.sites) - 1)


if keras.backend.backend() == "jax":  # where alone several processes hold a model

    @pytest.mark.parametrize("made", [b"some bytes" * 9, ValueError("no")], ids=["value", "error"])
    def test_what_one_process_makes_reaches_the_others(made, monkeypatch):
        from jax.experimental import multihost_utils

        def make():
            if isinstance(made, Exception):
                raise made
            return made

        wire, part = [], processes.PART
        monkeypatch.setattr(processes, "PART", 16)
        monkeypatch.setattr(processes, "process_count", lambda: 2)
        for place in (0, 1):
            received = iter(wire.copy())

            def broadcast(value, is_source, received=received, place=place):
                if is_source:
                    wire.append(np.array(value))
                    return value
                return next(received)

            monkeypatch.setattr(processes, "process_index", lambda place=place: place)
            monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
            if isinstance(made, Exception):
                with pytest.raises(ValueError, match="no"):
                    processes.broadcast_from(0, make)
            else:
                assert processes.broadcast_from(0, make if place == 0 else None) == made
        assert part > 16
        assert all(value.dtype == np.uint32 for value in wire)
