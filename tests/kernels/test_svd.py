"""The decomposition against LAPACK: orthogonality, reconstruction, signs, hard cases."""

import numpy as np
import pytest

from keras_svd_adapters.kernels.svd import cost as svd_cost
from keras_svd_adapters.kernels.svd.decomposition import KRYLOV_STEPS, decompose
from keras_svd_adapters.methods.contract import Truncation

SHAPES = [(40, 12), (12, 40), (24, 24), (1, 7), (7, 1)]


def spectrum(m, n, s, seed=0):
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(m, m)))[0][:, : len(s)]
    right = np.linalg.qr(rng.normal(size=(n, n)))[0][:, : len(s)]
    return left @ np.diag(s) @ right.T


def check(K, svd, tolerance=1e-6):
    k = min(K.shape)
    assert svd.U.shape == (K.shape[0], k)
    assert svd.Vt.shape == (k, K.shape[1])
    assert np.abs(svd.U.T @ svd.U - np.eye(k)).max() < tolerance
    assert np.abs(svd.Vt @ svd.Vt.T - np.eye(k)).max() < tolerance
    assert np.abs(svd.U @ np.diag(svd.s) @ svd.Vt - K).max() <= tolerance * max(svd.s[0], 1e-30)
    assert (np.diff(svd.s) <= 1e-12 * max(svd.s[0], 1e-30)).all()
    assert positive(svd)


def positive(svd):
    smaller = svd.U if len(svd.U) <= svd.Vt.shape[1] else svd.Vt.T
    return (smaller[np.abs(smaller).argmax(axis=0), range(smaller.shape[1])] > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_random_kernels(shape):
    K = np.random.default_rng(1).normal(size=shape).astype("float32")
    svd = decompose(K)
    check(K, svd)
    np.testing.assert_allclose(svd.s, np.linalg.svd(K.astype("float64"))[1], rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("smallest", [1e-2, 1e-5, 4e-7, 1e-9, 0.0])
def test_any_condition_number(shape, smallest):
    k = min(shape)
    K = spectrum(*shape, np.geomspace(1, smallest, k) if smallest else np.eye(k)[0])
    check(K, decompose(K))


def test_a_zero_kernel():
    check(np.zeros((5, 3)), decompose(np.zeros((5, 3))))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(bad):
    K = np.ones((4, 3))
    K[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity.*Received: 1 such values"):
        decompose(K)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_the_largest_triplets(shape, decay):
    s = np.sort(np.arange(1, 201) ** -decay * np.random.default_rng(3).uniform(0.9, 1.1, 200))
    K = spectrum(*shape, s[::-1])
    rank = 6
    svd = decompose(K, Truncation(rank, oversampling=8, seed=0))
    assert svd.U.shape == (shape[0], rank)
    assert svd.Vt.shape == (rank, shape[1])
    assert np.abs(svd.U.T @ svd.U - np.eye(rank)).max() < 1e-6
    exact = decompose(K)
    assert (svd.s <= exact.s[:rank] * (1 + 1e-9)).all()
    assert (svd.s**2).sum() > (0.99 if decay else 0.97) * (exact.s[:rank] ** 2).sum()
    again = decompose(K, Truncation(rank, oversampling=8, seed=0))
    np.testing.assert_array_equal(svd.U, again.U)
    assert np.abs(svd.U - decompose(K, Truncation(rank, oversampling=8, seed=1)).U).max() > 0
    assert positive(svd)


def test_the_largest_triplets_of_a_small_kernel_are_exact():
    K = np.random.default_rng(4).normal(size=(40, 30))
    part, whole = decompose(K, Truncation(4, 8, 0)), decompose(K)
    np.testing.assert_array_equal(part.U, whole.U[:, :4])
    np.testing.assert_array_equal(part.Vt, whole.Vt[:4])


def test_seconds_are_operations_by_the_speed_of_the_host(monkeypatch):
    part = Truncation(rank=8, oversampling=4, seed=0)
    m, n, width = 4000, 3000, 12
    assert svd_cost.krylov_pays(m, n, part)
    block = width * (KRYLOV_STEPS + 1)
    passes = 2 * KRYLOV_STEPS + 2
    for rates, operations in (
        ((1.0, np.inf), 2 * (2 * m * n) * width * passes),
        ((np.inf, 1.0), 9 * block**2 * m),
    ):
        monkeypatch.setattr(svd_cost, "host_speed", lambda rates=rates: rates)
        assert svd_cost.decomposition_seconds(m, n, part) == operations
