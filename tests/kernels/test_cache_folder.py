"""The folder of the kept decompositions: its size, its files, and who else writes there."""

import os
import time
from pathlib import Path

import models
import pytest
from decompositions import backend_free, kernels
from fresh_process import fresh_process

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.svd import cache as svd_cache
from keras_svd_adapters.kernels.svd.service import SVDService

pytestmark = pytest.mark.usefixtures("every_kernel_is_kept")


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
