"""An adapter of one base, carried to another without training."""

import keras
import models
import numpy as np
import pytest
from cases import numpy, shake
from two_adapters import deltas
from two_models import pair

import keras_svd_adapters as ksa
from keras_svd_adapters.methods import LoRAX
from keras_svd_adapters.models.sites.search import adapted_sites

backend_free = pytest.mark.backend_free("computed by NumPy, of kernels that are read as elsewhere")


METHOD = LoRAX(rank=4)


def adapted(source, method=METHOD):
    ksa.enable(source, method, name="source")
    shake(source, seed=1)
    return source


def test_the_same_base_has_the_same_outputs():
    (model, x), (source, _) = models.bert(), models.bert()
    adapted(source)
    before = [numpy(weight) for weight in source.weights]
    report = ksa.transfer(model, source)
    assert report.error < 1e-5
    assert {kernel.method for kernel in report.kernels} == {"LoRAX(rank=4)"}
    np.testing.assert_allclose(models.output(model(x)), models.output(source(x)), atol=1e-4)
    assert ksa.status(model).adapters[0][0] == "transferred"
    for weight, value in zip(source.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)


@backend_free
def test_a_similar_base_gets_the_nearest_update():
    model, source, _ = pair(size=3e-3)
    adapted(source)
    report = ksa.transfer(model, source, rank=8, tolerance=1.0)
    found, wanted = deltas(model, "transferred"), deltas(source, "source")
    for site, kernel, ours, theirs in zip(adapted_sites(model), report.kernels, found, wanted):
        K = site.matrix().astype("float64")
        U, _, Vt = np.linalg.svd(K, full_matrices=False)
        U, Vt = U[:, :8], Vt[:8]
        ours, theirs = site.view.to_matrix(ours), site.view.to_matrix(theirs)
        np.testing.assert_allclose(ours, U @ U.T @ theirs @ Vt.T @ Vt, atol=1e-5)
        lost = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        np.testing.assert_allclose(kernel.error, lost, atol=1e-4)


@backend_free
def test_an_adapter_of_another_method_needs_a_rank():
    (model, _), (source, _) = models.bert(), models.bert()
    adapted(source, ksa.LoRA(rank=2))
    with pytest.raises(ValueError, match="Give the rank"):
        ksa.transfer(model, source)
    report = ksa.transfer(model, source, rank=16, tolerance=1.0)
    assert {kernel.error < 1e-5 for kernel in report.kernels} == {True, False}  # square, or not


@backend_free
def test_kernels_that_lose_too_much_are_named():
    (model, _), (source, _) = models.bert(), models.bert()
    adapted(source)
    sites = ksa.targets(model).sites
    sites[0].layer.kernel.assign(np.random.default_rng(0).normal(size=sites[0].shape))
    with pytest.warns(UserWarning, match="1 kernels get no adapter.*" + sites[0].path):
        report = ksa.transfer(model, source)
    assert {kernel.path for kernel in report.kernels} == {site.path for site in sites[1:]}


@backend_free
def test_another_model_is_refused():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5), keras.layers.Dense(2)])
    adapted(other, LoRAX(rank=2))
    with pytest.raises(ValueError, match="must have the same kernels"):
        ksa.transfer(model, other)
    stranger = keras.models.clone_model(model)
    adapted(stranger, LoRAX(rank=1))
    with pytest.raises(ValueError, match="No kernel's update lies between"):
        ksa.transfer(model, stranger, tolerance=0.01)
    assert not adapted_sites(model)
