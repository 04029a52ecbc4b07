"""The program that gives each kernel a configuration, against all possibilities."""

from itertools import product

import numpy as np
import pytest

from keras_svd_adapters.kernels.bit_allocation import allocate

pytestmark = pytest.mark.backend_free("NumPy alone")


def total(table, chosen):
    return sum(row[c] for row, c in zip(table, chosen, strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_the_optimum_of_three_kernels(seed, scale):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(100, 1000, (3, 4))
    errors = scale * rng.uniform(0.1, 1, (3, 4)) / sizes
    smallest, largest = sizes.min(axis=1).sum(), sizes.max(axis=1).sum()
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        budget = smallest + share * (largest - smallest)
        fitting = [c for c in product(range(4), repeat=3) if total(sizes, c) <= budget]
        best = min(fitting, key=lambda c: total(errors, c))
        found = allocate(errors, sizes, budget)
        assert total(sizes, found) <= budget
        assert total(errors, found) == pytest.approx(total(errors, best), rel=1e-9)


def test_many_equal_kernels_share_the_budget():
    errors, sizes = np.tile([4.0, 1.0], (40, 1)), np.tile([4, 8], (40, 1))
    assert sum(allocate(errors, sizes, 4 * 40 + 4 * 13 + 3)) == 13
    assert allocate(np.zeros((2, 2)), np.ones((2, 2)), 2) in ([0, 0], [0, 1], [1, 0], [1, 1])
