"""One backend a run, named by `KERAS_BACKEND`; the same numbers every time.

Which tests run: with `EVERY=1` (`make test-all`) each row of each table. Without (`make test`)
each test on each backend, with two savings:

- The rows of a table are dealt to the three backends, so that each row runs on one of them and
  each backend has at least one.
- What `pytest.mark.backend_free` names, with the reason, runs on PyTorch alone, the quickest.

and with two more: what `pytest.mark.long` names is left out, and XLA compiles for JAX in haste,
except where the last bit counts (`pytest.mark.optimized`).
"""

import gc
import os
import zlib
from collections import defaultdict

import keras
import pytest

EXPECTED = os.environ.get("KERAS_BACKEND", "")
EVERY = "EVERY" in os.environ
BACKENDS = ("jax", "tensorflow", "torch")


def pytest_report_header():
    return f"keras {keras.__version__} on {keras.backend.backend()}"


def pytest_configure(config):
    if not EVERY:  # also of the processes that tests start
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    for line in (
        "backend_free(reason): runs on PyTorch alone, unless with `EVERY=1`",
        "long(reason): runs with `EVERY=1` only",
        "optimized(reason): compiled by JAX as it is for a user",
    ):
        config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(config, items):
    if EVERY:
        return
    backend = keras.backend.backend()
    rows = defaultdict(list)
    for item in items:
        rows[item.nodeid.partition("[")[0]].append(item)
    chosen = set()
    for name, table in rows.items():
        # By the name, for the backends do not collect the same tests: places would differ.
        turn = BACKENDS.index(backend) + zlib.crc32(name.encode())
        if table[0].get_closest_marker("long"):
            continue
        if table[0].get_closest_marker("backend_free"):
            chosen.update(table if backend == "torch" else ())
        elif len(table) < len(BACKENDS):
            chosen.add(table[turn % len(table)])
        else:
            chosen.update(table[turn % len(BACKENDS) :: len(BACKENDS)])
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def as_exact_as_a_cpu():
    """Let a GPU multiply float32 as float32: by default it rounds the factors to TF32."""
    if keras.backend.backend() == "torch":
        import torch

        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
    elif keras.backend.backend() == "jax":
        import jax

        os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # of the processes that tests start
        jax.config.update("jax_default_matmul_precision", "highest")


def pytest_sessionstart():
    if keras.backend.backend() != EXPECTED:
        pytest.exit(
            "Set KERAS_BACKEND to jax, tensorflow or torch; `make test` runs all three.",
            returncode=4,
        )
    as_exact_as_a_cpu()


@pytest.fixture(autouse=True)
def few_live_objects():
    """Keras collects garbage for each variable that it deletes: earlier tests leave none."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("KERAS_SVD_ADAPTERS_CACHE", str(tmp_path_factory.getbasetemp() / "svd"))


@pytest.fixture(autouse=True)
def compiled_in_haste(request):
    if keras.backend.backend() != "jax" or EVERY:
        return
    import jax

    optimized = request.node.get_closest_marker("optimized") is not None
    if optimized and jax.config.read("jax_disable_most_optimizations"):
        jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", not optimized)


@pytest.fixture(autouse=True)
def same_numbers():
    keras.utils.set_random_seed(7)
    yield
    keras.utils.clear_session(free_memory=False)
