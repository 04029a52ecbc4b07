"""Singular values of kernels, their statistics and their picture."""

import models
import numpy as np
import pytest

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.low_rank_factors import rank_for
from keras_svd_adapters.kernels.svd.decomposition import singular_values
from keras_svd_adapters.reports.spectrum import KernelSpectrum, gaussian_spectrum

pytestmark = pytest.mark.backend_free("computed by NumPy")


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (24, 24)])
def test_singular_values(shape):
    K = np.random.default_rng(1).normal(size=shape).astype("float32")
    expected = np.linalg.svd(K.astype("float64"), compute_uv=False)
    np.testing.assert_allclose(singular_values(K), expected, rtol=1e-9)


@pytest.mark.parametrize(("m", "n"), [(300, 300), (200, 600), (600, 150)])
def test_the_law_for_random_kernels(m, n):
    K = np.random.default_rng(2).normal(size=(m, n))
    found, expected = gaussian_spectrum(m, n, np.linalg.norm(K)), singular_values(K)
    assert np.abs(found - expected).max() < 0.03 * expected[0]
    assert abs(rank_for(found, 0.9) - rank_for(expected, 0.9)) <= 3


def test_numbers_of_a_known_spectrum():
    kernel = KernelSpectrum("a", (4, 4), np.array([3.0, 1.0, 0.5, 0.05]))
    assert [kernel.rank(e) for e in (0.5, 0.87, 0.88, 0.999, 1.0)] == [1, 1, 2, 3, 4]
    assert kernel.share(0.1, 1.1) == 0.5
    assert kernel.quantile(0.5) == 0.75
    assert np.isclose(np.linalg.norm(kernel.gaussian), np.linalg.norm(kernel.s))


def test_of_a_model():
    backbone, _ = models.bert()
    before = [(w.path, w.numpy().tobytes()) for w in backbone.weights]
    found = ksa.spectrum(backbone, interval=(0.1, 2.0))
    assert [k.path for k in found.kernels] == [s.path for s in ksa.plan(backbone, ksa.SVF()).sites]
    s = np.concatenate([kernel.s for kernel in found.kernels])
    assert np.isclose(found.share, ((s >= 0.1) & (s <= 2)).mean())
    assert "rank for 90%" in str(found)
    assert f"{found.share:.1%} of {len(s)} singular values lie in [0.1, 2]" in str(found)
    assert [(w.path, w.numpy().tobytes()) for w in backbone.weights] == before
    assert len(ksa.spectrum(backbone, targets="query").kernels) == 2


def test_the_picture(tmp_path):
    backbone, _ = models.bert()
    figure = ksa.spectrum(backbone).plot()
    titles = [axis.get_title() for axis in figure.axes]
    assert "query (16 x 16)" in titles
    assert [len(axis.lines) for axis in figure.axes] == [4] * 6  # two layers, Gaussian, rank
    figure.savefig(tmp_path / "spectrum.png")
    assert (tmp_path / "spectrum.png").stat().st_size > 10_000


def test_bad_input():
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match=r"smaller and a larger number.*Received: \(2, 1\)"):
        ksa.spectrum(backbone, interval=(2, 1))
    with pytest.raises(ValueError, match="matches no layer"):
        ksa.spectrum(backbone, targets="nothing")
