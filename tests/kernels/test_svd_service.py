"""Decompositions of many kernels: in order, side by side, interruptible, and kept on disk."""

import importlib
import os
import threading
import time
from pathlib import Path

import keras
import models
import numpy as np
import pytest
from fresh_process import fresh_process
from threadpoolctl import threadpool_info, threadpool_limits

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.svd import cache as svd_cache
from keras_svd_adapters.kernels.svd.accelerator import has_accelerator
from keras_svd_adapters.kernels.svd.decomposition import Decomposition, decompose
from keras_svd_adapters.kernels.svd.job import Job
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.contract import Truncation
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.runtime import processes

service_module = importlib.import_module("keras_svd_adapters.kernels.svd.service")


backend_free = pytest.mark.backend_free("the service and its cache know NumPy alone")


@pytest.fixture(autouse=True)
def every_kernel_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(svd_cache, "LEAST_OPERATIONS", 0)
    monkeypatch.setenv(svd_cache.VARIABLE, str(tmp_path / "svd"))


@pytest.fixture
def decomposed(monkeypatch):
    """The shapes that were decomposed."""
    shapes = []

    def noted(K, part=None):
        shapes.append(K.shape)
        return decompose(K, part)

    monkeypatch.setattr(service_module, "decompose", noted)
    return shapes


def kernels(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(8 + i, 12)).astype("float32") for i in range(count)]


def jobs(matrices, part=None, wanted=True):
    return [Job(lambda K=K: K, K.shape, part, wanted) for K in matrices]


def equal(one, other):
    for name in ("U", "s", "Vt"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


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
    assert SVDService().workers(jobs(kernels(3), wanted=False)) == 1


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
def test_the_entries_that_were_not_read_for_longest_go_first(monkeypatch):
    service, matrices = SVDService(), kernels(4)
    paths = []
    for i, K in enumerate(matrices[:3]):
        service.decompose(K)
        paths.append(svd_cache.entry(K, svd_cache.default_folder()))
        os.utime(paths[-1], (i, i))
    service.decompose(matrices[0])  # read again
    told = svd_cache.info()
    assert told.entries == 3
    assert told.bytes == sum(path.stat().st_size for path in paths)
    assert str(told.folder) in str(told)
    monkeypatch.setattr(svd_cache, "MOST_BYTES", told.bytes + 10)
    service.decompose(matrices[3])
    assert [path.exists() for path in paths] == [True, False, False]
    assert svd_cache.info().bytes <= told.bytes + 10
    svd_cache.clear()
    assert svd_cache.info().entries == 0


@backend_free
def test_devices_have_entries_of_their_own(monkeypatch, decomposed):
    monkeypatch.setattr(service_module, "require_accelerator", lambda: None)
    K = kernels(1)[0]
    SVDService(device="accelerator").decompose(K)
    assert svd_cache.info().entries == 1
    equal(SVDService().decompose(K), decompose(K))
    assert svd_cache.info().entries == 2
    assert len(decomposed) == 1


@backend_free
def test_the_largest_triplets_do_not_depend_on_the_cache():
    K = np.random.default_rng(0).normal(size=(300, 300)).astype("float32")
    part = Truncation(4, 8, 0)
    first = SVDService().decompose(K, part)
    SVDService().decompose(K)
    equal(SVDService().decompose(K, part), first)


@backend_free
def test_entries_are_as_readable_as_any_file(tmp_path):
    (tmp_path / "any").write_text("")
    SVDService(cache_dir=tmp_path).decompose(kernels(1)[0])
    entry = next(tmp_path.glob(f"*{svd_cache.ENDING}"))
    assert entry.stat().st_mode == (tmp_path / "any").stat().st_mode


@backend_free
def test_what_a_killed_process_left_goes(tmp_path):
    litter = tmp_path / f".abc{svd_cache.ENDING}.0123"
    for age, there in ((0, True), (2 * svd_cache.SECONDS_TO_WRITE, False)):
        litter.write_text("half")
        os.utime(litter, (time.time() - age, time.time() - age))
        SVDService(cache_dir=tmp_path).decompose(kernels(1, seed=age)[0])
        assert litter.exists() == there


@backend_free
def test_threads_are_never_more_than_before():
    with threadpool_limits(1, user_api="blas"):
        for _ in SVDService(cache=False).each(jobs(kernels(3))):
            assert {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"} == {1}


@backend_free
def test_another_folder(tmp_path):
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF(), ["query"], cache_dir=tmp_path / "mine")
    assert svd_cache.info(tmp_path / "mine").entries == 2
    assert svd_cache.info().entries == 0
    svd_cache.clear(tmp_path / "mine")
    assert svd_cache.info(tmp_path / "mine").entries == 0


@backend_free
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be cached.*cache=False.*Received: "):
        SVDService(cache_dir=tmp_path / "file").decompose(kernels(1)[0])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        SVDService(cache_dir=tmp_path / "full").decompose(kernels(1)[0])
    assert not list((tmp_path / "full").iterdir())


def test_two_processes_at_once(tmp_path):
    processes = [fresh_process("share_the_cache.py", tmp_path) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert not list((tmp_path / "svd").glob(".*"))


@backend_free
@pytest.mark.parametrize("name", [f".9x12-a{svd_cache.ENDING}.b", f"9x12-a{svd_cache.ENDING}"])
@pytest.mark.parametrize("looks", [0, 1])
def test_files_that_another_process_takes_away(tmp_path, monkeypatch, recwarn, name, looks):
    passing, stat, seen = tmp_path / name, Path.stat, []
    passing.write_text("")

    def fleeting(path, **options):
        """Of that file nothing is left after a number of looks."""
        if path.name == name:
            seen.append(path)
            if len(seen) > looks:
                passing.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", fleeting)
    SVDService(cache_dir=tmp_path).decompose(kernels(1)[0])
    assert svd_cache.info(tmp_path).entries >= 1
    svd_cache.clear(tmp_path)
    assert seen
    assert not recwarn


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
    if not has_accelerator():
        with pytest.raises(ValueError, match="no GPU or TPU.*Received: "):
            ksa.enable(backbone, ksa.SVF(), svd_device="accelerator")
    assert not adapted_sites(backbone)
    monkeypatch.setattr(service_module, "require_accelerator", lambda: None)
    y = models.output(backbone(x))
    ksa.enable(backbone, ksa.SVF(), svd_device="accelerator", cache=False)
    np.testing.assert_array_equal(models.output(backbone(x)), y)
    for K in kernels(3):
        service = SVDService(device="accelerator", cache=False)
        part = Truncation(rank=3, oversampling=4, seed=0)
        found, right = service.decompose(K), decompose(K)
        assert [len(service.decompose(K, part).s), service.decompose(K, part).U.shape[1]] == [3, 3]
        np.testing.assert_allclose(found.s, right.s, rtol=1e-5)
        np.testing.assert_allclose(found.U, right.U, atol=1e-4)
        np.testing.assert_allclose(found.Vt, right.Vt, atol=1e-4)


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
