"""A LoRA of the difference of two models."""

import warnings

import keras
import models
import numpy as np
import pytest
from cases import batch, numpy, shake
from experts import TOKENS, WIDTH, experts
from two_adapters import deltas, peak
from two_models import pair

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites

backend_free = pytest.mark.backend_free("computed by NumPy, of kernels that are read as elsewhere")


def differences(base, tuned):
    """For each adapted kernel, what the tuned one has more, as a float64 matrix."""
    theirs = {site.key: numpy(base_kernel_variable(site.layer)) for site in find_sites(tuned)}
    return [
        s.view.to_matrix((theirs[s.key] - numpy(base_kernel_variable(s.layer))).astype("float64"))
        for s in adapted_sites(base)
    ]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The LoRA does not hold")
        yield


def test_of_the_whole_rank_it_computes_what_the_tuned_model_does(tmp_path):
    base, tuned, x = pair(rank=3)
    before = models.output(base(x))
    weights = [(w, numpy(w)) for w in [*base.weights, *tuned.weights]]
    report = ksa.extract_lora(base, tuned, rank=3, into="tuned")
    assert report.error < 1e-5
    assert "'tuned' is active; its update differs from the difference of the models" in str(report)
    expected = models.output(tuned(x))
    np.testing.assert_allclose(models.output(base(x)), expected, atol=1e-4)
    with ksa.disabled(base):
        np.testing.assert_array_equal(models.output(base(x)), before)
    for weight, value in weights:
        np.testing.assert_array_equal(numpy(weight), value)
    ksa.save_adapter(base, tmp_path / "tuned.keras")
    fresh, _ = models.bert()
    ksa.load_adapter(fresh, tmp_path / "tuned.keras")
    np.testing.assert_allclose(models.output(fresh(x)), expected, atol=1e-4)


@backend_free
def test_is_the_nearest_of_its_rank():
    base, tuned, _ = pair()
    report = ksa.extract_lora(base, tuned, rank=4)
    assert {kernel.method for kernel in report.kernels} == {"LoRA(rank=4)"}
    for kernel, change in zip(report.kernels, differences(base, tuned), strict=True):
        s = np.linalg.svd(change, compute_uv=False)
        nearest = np.sqrt(np.sum(s[4:] ** 2) / np.sum(s**2))
        np.testing.assert_allclose(kernel.error, nearest, atol=1e-5)


@backend_free
def test_holds_the_energy_that_is_asked_for():
    base, tuned, _ = pair()
    report = ksa.extract_lora(base, tuned, energy=0.9)
    assert 0.1 < report.error <= np.sqrt(0.1) + 1e-6


@backend_free
def test_kernels_that_are_the_same_get_none():
    (base, _), (tuned, _) = models.bert(), models.bert()
    moved = ksa.targets(tuned, "query").sites[1]
    base_kernel_variable(moved.layer).assign_add(np.ones(moved.shape, "float32"))
    report = ksa.extract_lora(base, tuned, rank=1)
    assert [kernel.path for kernel in report.kernels] == [moved.path]
    assert [site.key for site in adapted_sites(base)] == [moved.key]


@backend_free
def test_the_adapter_of_the_tuned_model_counts():
    (base, x), (tuned, _) = models.bert(), models.bert()
    ksa.enable(tuned, ksa.SVF(), targets=["query", "value"])
    shake(tuned)
    assert ksa.extract_lora(base, tuned, rank=16).error < 1e-4
    np.testing.assert_allclose(models.output(base(x)), models.output(tuned(x)), atol=1e-4)
    assert len(adapted_sites(base)) == 4
    ksa.set_adapter(tuned, None)
    with pytest.raises(ValueError, match="are the same in both models. So are all others"):
        ksa.extract_lora(models.bert()[0], tuned, rank=1)


@backend_free
def test_the_adapter_of_a_model_itself():
    model, x = models.bert()
    ksa.enable(model, ksa.SVF())
    shake(model)
    y = models.output(model(x))
    assert ksa.extract_lora(model, model, rank=100).error < 1e-4
    np.testing.assert_allclose(models.output(model(x)), y, atol=1e-4)


@backend_free
def test_an_embedding_by_its_name():
    (base, x), (tuned, _) = models.bert(), models.bert()
    (site,) = ksa.targets(tuned, "token_embedding", tied=True).sites
    base_kernel_variable(site.layer).assign_add(np.ones(site.shape, "float32"))
    with pytest.raises(
        ValueError, match=r"the same in both models. 1 other weights differ: `token_"
    ):
        ksa.extract_lora(base, tuned, rank=1)
    with pytest.raises(ValueError, match="`tied=True` adapts it"):
        ksa.extract_lora(base, tuned, rank=1, targets="token_embedding")
    assert ksa.extract_lora(base, tuned, rank=1, targets="token_embedding", tied=True).error < 1e-5
    np.testing.assert_allclose(models.output(base(x)), models.output(tuned(x)), atol=1e-4)


@backend_free
def test_one_expert_of_three():
    base, tuned, x = experts(), experts(), batch((TOKENS, WIDTH))
    change = np.zeros(tuned._up_proj.shape, "float32")
    change[1] = np.outer(np.arange(change.shape[1]), np.ones(change.shape[2]))
    tuned._up_proj.assign_add(change)
    report = ksa.extract_lora(base, tuned, rank=1)
    assert [kernel.path for kernel in report.kernels] == [f"up_proj[{i}]" for i in range(3)]
    assert report.error < 1e-5
    np.testing.assert_allclose(numpy(base(x)), numpy(tuned(x)), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(deltas(base, "lora")[0], change, atol=1e-4)


@backend_free
def test_in_another_precision():
    base, (tuned, _) = models.bert("bfloat16")[0], models.bert()
    with pytest.warns(UserWarning, match="does not hold"):
        report = ksa.extract_lora(base, tuned, rank=100)
    assert report.error < 1e-4


@backend_free
def test_one_kernel_is_in_memory_at_a_time():
    width, count = 256, 24

    def build():
        layers = [keras.layers.Dense(width, name=f"dense_{i}") for i in range(count)]
        return keras.Sequential([keras.Input((width,)), *layers])

    base, tuned = build(), build()
    every = count * width * width * np.dtype("float64").itemsize
    assert peak(lambda: ksa.extract_lora(base, tuned, rank=1, targets="dense*")) < every / 2


BAD = {
    "no_size": ({}, "Give `rank=`.*Received: rank=None, energy=None"),
    "two_sizes": ({"rank": 1, "energy": 0.5}, "not both"),
    "rank": ({"rank": True}, "positive integer"),
    "energy": ({"energy": "all"}, "share between 0 and 1"),
    "name": ({"rank": 1, "into": "two words"}, "letters, digits"),
    "taken": ({"rank": 1, "into": "first"}, "has an adapter of this name"),
    "targets": ({"rank": 1, "targets": "nothing"}, "matches no layer"),
}


@backend_free
@pytest.mark.parametrize(("how", "message"), BAD.values(), ids=BAD)
def test_bad_requests(how, message):
    base, tuned, _ = pair()
    ksa.enable(base, ksa.SVF(), targets="query", name="first")
    before = [w.path for w in base.weights]
    with pytest.raises(ValueError, match=message) as error:
        ksa.extract_lora(base, tuned, **how)
    assert "Received: " in str(error.value)
    assert [w.path for w in base.weights] == before
