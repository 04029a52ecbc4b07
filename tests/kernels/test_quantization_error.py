"""Factors for a quantization error: weights of its entries, and the best of several iterations."""

import numpy as np
import pytest

from keras_svd_adapters.kernels.error_weights import PLAIN, of_gradients, of_inputs
from keras_svd_adapters.kernels.quantization_error import STARTS, fit_residual
from keras_svd_adapters.methods.statistics import Magnitudes, Statistics

M, N, RANK, SCALE = 24, 16, 3, 2.0
RNG = np.random.default_rng(4)
K = RNG.normal(size=(M, N)).astype("float32")
UNEVEN = np.exp(RNG.normal(size=M))
pytestmark = pytest.mark.backend_free("NumPy alone")


def round_off(matrix):
    step = np.abs(matrix).max(axis=0) / 3
    return np.round(matrix / step) * step


def by_inputs(sizes):
    return of_inputs(Statistics(magnitudes=Magnitudes(5, sizes, sizes**2)))


def by_gradients(squares):
    return of_gradients(Statistics(squared_gradients=squares))


def fitted(weights=PLAIN, start="loftq", iterations=1, rounding=round_off):
    return fit_residual(K, rounding, RANK, SCALE, start, iterations, weights)


EVEN = {"inputs": by_inputs(np.full(M, 0.3)), "fisher": by_gradients(np.full((M, N), 1e-9))}
FLAT = {"dead_inputs": by_inputs(np.zeros(M)), "no_gradient": by_gradients(np.zeros((M, N)))}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("weights", [*EVEN.values(), *FLAT.values()], ids=[*EVEN, *FLAT])
def test_weights_that_are_equal_change_nothing(weights, start):
    plain, other = fitted(start=start), fitted(weights, start)
    np.testing.assert_allclose(other.A @ other.B, plain.A @ plain.B, rtol=0, atol=1e-5)
    np.testing.assert_allclose(other.A, plain.A, rtol=0, atol=1e-5)
    if other.size:
        np.testing.assert_allclose(other.error / other.size, plain.error / plain.size, rtol=1e-5)


@pytest.mark.parametrize("name", ["inputs", "fisher"])
def test_no_other_factors_have_a_smaller_weighted_error(name):
    """Fisher weights of rank one are those that whole rows and columns can express."""
    columns = np.exp(RNG.normal(size=N))
    F = np.outer(UNEVEN**2, columns**2)
    weights = by_inputs(UNEVEN) if name == "inputs" else by_gradients(F)
    D1, D2 = UNEVEN[:, None], columns if name == "fisher" else np.ones(N)
    found, plain, E = fitted(weights), fitted(), K - round_off(K)
    U, s, Vt = np.linalg.svd(D1 * E * D2)
    wanted = (U[:, :RANK] * s[:RANK]) @ Vt[:RANK] / D1 / D2
    np.testing.assert_allclose(SCALE * found.A @ found.B, wanted, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.error, np.linalg.norm(s[RANK:]), rtol=1e-4)
    assert found.error < 0.99 * weights.size(E - SCALE * plain.A @ plain.B)
    np.testing.assert_allclose(found.alone, np.linalg.norm(D1 * E * D2), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.A), np.linalg.norm(found.B), rtol=1e-4)


def test_inputs_and_outputs_that_the_data_never_used():
    sizes, F = UNEVEN.copy(), np.outer(UNEVEN, np.ones(N))
    sizes[3], F[3], F[:, 5] = 0.0, 0.0, 0.0
    for weights in (by_inputs(sizes), by_gradients(F)):
        found = fitted(weights)
        assert np.abs(found.A).max() < 100
        assert np.abs(SCALE * found.A @ found.B).max() < 10 * np.abs(K).max()
        assert found.error < weights.size(K - round_off(K))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("weights", [PLAIN, by_inputs(UNEVEN)], ids=["plain", "inputs"])
def test_more_iterations_never_raise_the_error(weights, start):
    errors = [fitted(weights, start, turns).error for turns in (1, 2, 3, 5, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]
    best = fitted(weights, start, 20)
    Q = round_off(best.kept)
    np.testing.assert_allclose(weights.size(K - Q - SCALE * best.A @ best.B), best.error, rtol=1e-4)


@pytest.mark.parametrize("start", STARTS)
def test_the_best_iteration_is_kept_when_the_error_rises(start):
    calls = []

    def worse_and_worse(matrix):
        calls.append(matrix)
        return round_off(matrix) + 0.3 * len(calls) * np.sin(np.arange(M * N)).reshape(M, N)

    first = fitted(start=start, rounding=worse_and_worse)
    count = len(calls)
    calls.clear()
    many = fitted(start=start, iterations=50, rounding=worse_and_worse)
    assert len(calls) == count + 1  # it stopped
    for one, other in zip(first, many, strict=True):
        np.testing.assert_array_equal(one, other)
