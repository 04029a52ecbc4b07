"""What an adapter changed, between the singular vectors of the kernels."""

import keras
import models
import numpy as np
import pytest
from cases import shake

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.svd.decomposition import decompose
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.reports.coefficients import _cells

pytestmark = pytest.mark.backend_free("computed by NumPy of changes that each backend tests")

METHODS = [ksa.SVF(), ksa.SVFT("banded", d=2), ksa.SVFT("random", d=1, seed=3), ksa.LoRA(rank=2)]


def adapted(method):
    backbone, _ = models.bert()
    ksa.enable(backbone, method)
    shake(backbone)
    return backbone


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_cells_are_the_change_between_the_singular_vectors(method):
    backbone = adapted(method)
    found = ksa.coefficients(backbone)
    sites = adapted_sites(backbone)
    assert [kernel.path for kernel in found.kernels] == [site.path for site in sites]
    for site, kernel in zip(sites, found.kernels, strict=True):
        K, svd = site.matrix(), decompose(site.matrix())
        delta = site.view.to_matrix(
            models.output(site.layer.adapter().delta(site.layer.base_kernel))
        )
        M = svd.U.T @ delta @ svd.Vt.T
        np.testing.assert_allclose(kernel.cells, np.abs(M), atol=2e-6 * np.abs(M).max())
        squares = M**2 / (M**2).sum()
        assert np.isclose(kernel.diagonal, np.trace(squares), atol=1e-5)
        assert np.isclose(kernel.top, squares[:2, :2].sum(), atol=1e-5)
        assert np.isclose(kernel.relative, np.linalg.norm(delta) / np.linalg.norm(K), rtol=1e-5)


def test_svf_lies_on_the_diagonal_and_a_band_beside_it():
    for kernel in ksa.coefficients(adapted(ksa.SVF())).kernels:
        assert kernel.diagonal > 1 - 1e-6
    far = np.abs(np.subtract.outer(range(16), range(16))) > 2
    for kernel in ksa.coefficients(adapted(ksa.SVFT("banded", d=2))).kernels:
        assert kernel.cells[far].max() < 1e-5 < kernel.cells[~far].max()


def test_cells_keep_the_mean_square():
    squares = np.random.default_rng(0).uniform(size=(100, 100))
    cells = _cells(squares)
    sizes = np.diff([*(np.arange(32) * 100 // 32), 100])
    assert cells.shape == (32, 32)
    np.testing.assert_allclose(cells[0, 1], squares[:3, 3:6].mean())
    np.testing.assert_allclose((cells * np.outer(sizes, sizes)).sum(), squares.sum())


def test_kernels_of_other_shapes_have_rows_of_their_own():
    layers = [keras.layers.Dense(n, name=f"dense_{n}") for n in (6, 4, 3, 2)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    ksa.enable(model, ksa.SVF())
    assert [row[:2] for row in ksa.coefficients(model).as_table().rows] == [
        ("dense_6", "6 x 6"),
        ("dense_4", "6 x 4"),
        ("dense_3", "4 x 3"),
    ]


def test_values_that_are_not_finite():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF(), targets="query")
    backbone.trainable_weights[1].assign(np.full(16, np.nan))
    with pytest.raises(ValueError, match="layer_1/.*query`: its adapter is not finite. Received"):
        ksa.coefficients(backbone)


def test_an_adapter_that_has_not_moved():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.LoRA(rank=2), targets="query")
    found = ksa.coefficients(backbone)
    assert [kernel.relative for kernel in found.kernels] == [0.0, 0.0]
    assert "0.00e+00" in str(found)
    found.plot()


def test_the_picture(tmp_path):
    figure = ksa.coefficients(adapted(ksa.SVF()), exclude="key").plot()
    assert len(figure.axes) == 10  # five kinds in two layers
    figure.savefig(tmp_path / "coefficients.png")
    assert (tmp_path / "coefficients.png").stat().st_size > 5_000


def test_bad_input():
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match="no adapter: `enable` one first. Received: "):
        ksa.coefficients(backbone)
    ksa.enable(backbone, ksa.SVF(), targets="query")
    with pytest.raises(ValueError, match="matches no layer"):
        ksa.coefficients(backbone, targets="nothing")
    with pytest.raises(ValueError, match="None of these layers.*Received: targets='value'"):
        ksa.coefficients(backbone, targets="value")
    ksa.set_adapter(backbone, None)
    with pytest.raises(ValueError, match="`set_adapter` first. Received: targets=None"):
        ksa.coefficients(backbone)
