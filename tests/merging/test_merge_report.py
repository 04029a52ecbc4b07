"""What the report of a merge says, against float64."""

import keras
import models
import numpy as np
import pytest
from cases import shake

import keras_svd_adapters as ksa
from keras_svd_adapters.models.sites.search import adapted_sites


def test_the_report_has_a_row_for_kernels_alike():
    model = keras.Sequential([keras.Input((8,))])
    for index in range(12):
        model.add(keras.layers.Dense(8, name=f"block_{index}"))
    model.add(keras.layers.Dense(3, name="head"))
    ksa.enable(model, ksa.LoRA(rank=2), targets="*")
    shake(model)
    report = ksa.merge(model)
    rows = [line.split() for line in str(report).splitlines()]
    assert [row[0] for row in rows[2:-1]] == ["block_{0..11}", "head"]
    assert rows[2][1] == f"{max(kernel.delta for kernel in report.kernels[:12]):.2e}"
    assert len(report.kernels) == 13


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1e-3, 1e-1])
def test_the_report_is_true(dtype, size):
    """Against float64: the rounded kernel, the exact one, and the delta between."""
    backbone, _ = models.bert(dtype)
    ksa.enable(backbone, ksa.LoRA(rank=2), targets="query")
    shake(backbone, size)
    sites = adapted_sites(backbone)
    wanted, base = [], [site.matrix().astype("float64") for site in sites]
    for site, K in zip(sites, base, strict=True):
        (v,) = site.layer.adapter().numpy_values()
        wanted.append(K + v.lora_a @ v.lora_b)
    report = ksa.merge(backbone)
    for site, K, exact, told in zip(sites, base, wanted, report.kernels, strict=True):
        error = site.matrix() - exact
        x = np.random.default_rng(0).normal(size=(64, len(K)))
        assert told.path == site.path
        norm = np.linalg.norm
        assert np.isclose(told.delta, norm(exact - K) / norm(K), rtol=1e-3)
        rough = {"float32": 0.05, "bfloat16": 1e-3}[dtype]
        assert np.isclose(told.lost, norm(error) / norm(exact - K), rtol=rough)
        assert np.isclose(told.relative, norm(x @ error) / norm(x @ exact), rtol=rough)
        assert np.isclose(told.largest, np.abs(x @ error).max(), rtol=2 * rough)
    assert f"{report.relative:.1e}" in str(report)
