"""The three properties that the authors of SVFT state: structure, rank, expressivity; its forms."""

import keras
import numpy as np
import pytest
from cases import build_layer, dense, einsum, numpy, wrapped_layer

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.operation import count_tokens
from keras_svd_adapters.kernels.svd.decomposition import decompose
from keras_svd_adapters.methods.spectral.spectral import Spectral

KERNELS = {
    "square": dense(16, 16),
    "tall": dense(40, 12),
    "wide": dense(12, 40),
    "heads": einsum("btd,ndh->btnh", (2, 3, 16), (None, 4, 4)),
}


def tuned(build, method, size=0.3):
    """A layer whose M holds generic values, and its kernel before and after, as matrices."""
    base = build_layer(build)
    K = base.kernel.numpy().astype("float64")
    layer = ksa.SVFTDense(base, **method.get_config())
    adapter = layer.base_layer.adapter()
    rng = np.random.default_rng(6)
    adapter.m.assign(size * rng.normal(size=adapter.m.shape))
    matrices = (adapter.view.to_matrix(k) for k in (K, numpy(layer.merged_kernel())))
    return layer, adapter, *(np.asarray(matrix, "float64") for matrix in matrices)


@pytest.mark.parametrize(("build", "shape"), KERNELS.values(), ids=KERNELS)
def test_structure(build, shape):
    """A diagonal M keeps the singular vectors, up to their order and sign."""
    _, _, before, after = tuned(build, ksa.SVFT())
    old, new = decompose(before), decompose(after)
    left, right = np.abs(old.U.T @ new.U), np.abs(old.Vt @ new.Vt.T)
    order = left.argmax(axis=0)
    assert sorted(order) == list(range(len(order)))
    np.testing.assert_allclose(left[order, range(len(order))], 1, atol=1e-4)
    np.testing.assert_allclose(right[order, range(len(order))], 1, atol=1e-4)


@pytest.mark.parametrize("nnz", [1, 3, 7, 12, 100])
@pytest.mark.parametrize(("build", "shape"), KERNELS.values(), ids=KERNELS)
def test_rank_is_at_most_the_number_of_entries(build, shape, nnz):
    _, adapter, before, after = tuned(build, ksa.SVFT(pattern="random", nnz=nnz, seed=1))
    rank = np.linalg.matrix_rank(after - before, tol=1e-4)
    rows, columns = numpy(adapter.pairs).T
    k = min(before.shape)
    assert rank <= min(nnz, k)
    assert rank <= min(len(set(rows)), len(set(columns)))


@pytest.mark.parametrize("method", [ksa.SVFT(), ksa.SVFT(pattern="banded", d=2)])
@pytest.mark.parametrize(("build", "shape"), KERNELS.values(), ids=KERNELS)
def test_generic_values_reach_the_full_rank(build, shape, method):
    _, _, before, after = tuned(build, method)
    assert np.linalg.matrix_rank(after - before, tol=1e-4) == min(before.shape)


def test_expressivity():
    """With a full M, a square kernel can become any other."""
    base = build_layer(KERNELS["square"][0])
    K = base.kernel.numpy().astype("float64")
    target = np.random.default_rng(8).normal(size=K.shape)
    svd = decompose(K)
    layer = ksa.SVFTDense(base, pattern="banded", d=15)
    M = svd.U.T @ (target - K) @ svd.Vt.T
    layer.base_layer.adapter().m.assign(M.ravel())
    np.testing.assert_allclose(numpy(layer.merged_kernel()), target, atol=1e-5)
    x = np.random.default_rng(9).normal(size=(3, 16))
    expected = keras.activations.gelu(x @ target + base.bias.numpy())
    np.testing.assert_allclose(numpy(layer(x)), numpy(expected), atol=1e-4)


@pytest.mark.parametrize("method", [ksa.SVF(), ksa.SVFT(pattern="banded", d=1)])
@pytest.mark.parametrize(("batch", "once"), [(2, False), (16, True)])
def test_many_tokens_make_the_change_once(method, batch, once, monkeypatch):
    """Of a square kernel of 32 rows, by sentences of 8 tokens."""
    made = []
    original = Spectral.change
    monkeypatch.setattr(Spectral, "change", lambda *args: (made.append(1), original(*args))[1])
    layer = keras.layers.Dense(32)
    layer.build((None, 8, 32))
    adapted = wrapped_layer(method, layer)
    adapted(np.ones((batch, 8, 32), "float32"))
    assert bool(made) == once


def test_an_open_size_counts_as_some():
    assert count_tokens((4, 8)) == 32
    assert count_tokens((None, 8)) == 128
    assert count_tokens(()) == 1


def test_a_wide_band_wants_a_smaller_rate():
    rates = [ksa.SVFT(pattern="banded", d=d).recommended_learning_rate for d in (2, 7, 8, 16)]
    assert rates == [1e-2, 1e-2, 3e-3, 3e-3]
    assert ksa.SVFT().recommended_learning_rate == 3e-2
