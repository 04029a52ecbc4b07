"""A cache of decompositions that keeps every kernel, however small."""

import pytest

from keras_svd_adapters.kernels.svd import cache as svd_cache


@pytest.fixture
def every_kernel_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(svd_cache, "LEAST_OPERATIONS", 0)
    monkeypatch.setenv(svd_cache.VARIABLE, str(tmp_path / "svd"))
