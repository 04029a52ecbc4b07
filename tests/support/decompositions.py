"""Kernels to decompose, jobs of them, and the comparison of what was found."""

import numpy as np
import pytest

from keras_svd_adapters.kernels.svd.job import Job

backend_free = pytest.mark.backend_free("the service and its cache know NumPy alone")


def kernels(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(8 + i, 12)).astype("float32") for i in range(count)]


def jobs(matrices, part=None, is_required=True):
    return [Job(lambda K=K: K, K.shape, part, is_required) for K in matrices]


def equal(one, other):
    for name in ("U", "s", "Vt"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
