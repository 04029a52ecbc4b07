"""One backend a run, named by `KERAS_BACKEND`; the same numbers every time."""

import gc
import os

import keras
import keras_hub  # noqa: F401 (what lives before the tests need not be searched by them)
import pytest

EXPECTED = os.environ.get("KERAS_BACKEND", "")


def pytest_report_header():
    return f"keras {keras.__version__} on {keras.backend.backend()}"


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # a verb searches the live objects for models: these are none of theirs


def pytest_sessionstart():
    if keras.backend.backend() != EXPECTED:
        pytest.exit(
            "Set KERAS_BACKEND to jax, tensorflow or torch; `make test` runs all three.",
            returncode=4,
        )


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("KERAS_SVD_ADAPTERS_CACHE", str(tmp_path_factory.getbasetemp() / "svd"))


@pytest.fixture(autouse=True)
def same_numbers():
    keras.utils.set_random_seed(7)
    yield
    keras.utils.clear_session(free_memory=False)
