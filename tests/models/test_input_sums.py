"""Sums over the inputs of kernels: their components, whole or from a sketch."""

import numpy as np
import pytest

from keras_svd_adapters.models.observation import principal_components as components_of_sums
from keras_svd_adapters.models.observation.moments import ComponentSums, Products
from keras_svd_adapters.models.observation.principal_components import (
    principal_components,
    sketch_of,
)

pytestmark = pytest.mark.backend_free("NumPy alone")
RNG = np.random.default_rng(8)
BASIS = np.linalg.qr(RNG.normal(size=(60, 60)))[0]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(components_of_sums, "COLUMNS", 16)


def components(rows, count):
    sums = ComponentSums(Products(), count)
    for part in np.array_split(rows, 3):
        sums.add(part)
    return sums.statistics()


def covariance(rows):
    return np.cov(rows.T, bias=True)


def test_a_sketch_is_smaller():
    assert sketch_of(60, 4).shape == (60, 16)
    assert sketch_of(60, 5).shape == (60, 20)
    assert sketch_of(32, 4) is None
    assert sketch_of(60, 8) is None


@pytest.mark.parametrize(("size", "count"), [(200, 8), (200, 4), (12, 4)])
def test_components_of_few_directions_are_exact(size, count):
    """Whole sums, a sketch, and fewer rows than columns of the sketch."""
    rows = RNG.normal(size=(size, 6)) * np.arange(6, 0, -1) @ BASIS[:6] + 3
    found = components(rows, count)
    values, vectors = np.linalg.eigh(covariance(rows))
    assert found.total == pytest.approx(values.sum())
    np.testing.assert_allclose(found.variances[:6], values[::-1][:count][:6], atol=1e-9)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(count), atol=1e-9)
    cosines = np.abs(np.sum(found.vectors[:, :6] * vectors[:, ::-1][:, :count][:, :6], axis=0))
    np.testing.assert_allclose(cosines, 1, atol=1e-9)


def test_nothing_varies():
    found = components(np.ones((5, 60)), 4)
    np.testing.assert_allclose(found.variances, 0, atol=1e-12)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(4), atol=1e-9)


def test_kernels_share_what_is_equal():
    """The second moments of these rows are equal, the means are not."""
    products = Products()
    every = [ComponentSums(products, 1) for _ in range(3)]
    for sums, last in zip(every, (1, 1, -1), strict=True):
        sums.add(np.array([[1.0, 1.0], [last, last]]))
    first, same, other = [sums.statistics() for sums in every]
    assert same is first
    assert (first.total, other.total) == (0, 2)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0, 2.0])
def test_the_error_of_a_sketch(decay):
    """In the nuclear norm, at most as the docstring of `principal_components` says."""
    rows = RNG.normal(size=(400, 60)) * np.arange(1, 61) ** -decay @ BASIS + 1
    found = components(rows, 4)
    C = covariance(rows)
    values = np.linalg.eigvalsh(C)[::-1]
    G = sketch_of(60, 4)
    product, energy = rows.T @ rows @ G / len(rows), (rows**2).sum() / len(rows)
    whole = principal_components(len(rows), 16, G, rows.mean(axis=0), product, energy)
    error = np.linalg.norm(C - whole.vectors * whole.variances @ whole.vectors.T, "nuc")
    bound = min((1 + k / (15 - k)) * values[k:].sum() for k in range(15))
    assert values[16:].sum() * (1 - 1e-9) <= error <= 1.1 * bound
    assert np.all(found.variances <= values[:4] * (1 + 1e-9))
    assert found.total == pytest.approx(values.sum())
