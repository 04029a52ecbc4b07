"""Models with two adapters, and what these add to each kernel."""

import tracemalloc

import keras
import models
import numpy as np
from cases import numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.models.sites.search import adapted_sites

WEIGHTS = {"a": 0.7, "b": -0.3}


def adapted(method, other=None, build=lambda: models.bert()[0]):
    """A model with two adapters, moved away from their starts."""
    model = build()
    keras.utils.set_random_seed(3)
    ksa.enable(model, method, name="a", cache=False)
    shake(model, seed=1)
    ksa.enable(model, other or method, name="b", cache=False)
    shake(model, seed=2)
    return model


def deltas(model, name):
    """What an adapter adds to each kernel, in float64."""
    return [
        numpy(adapters_of(site.layer)[name].delta(base_kernel_variable(site.layer))).astype(
            "float64"
        )
        for site in adapted_sites(model)
    ]


def peak(work):
    """The most bytes that Python and NumPy held for it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check(model, report, atol=1e-6):
    """The adapter `both` is the sum of both adapters with `WEIGHTS`, and is active."""
    for a, b, both in zip(deltas(model, "a"), deltas(model, "b"), deltas(model, "both")):
        np.testing.assert_allclose(both, 0.7 * a - 0.3 * b, atol=atol)
        assert np.abs(both).max() > 1e-3
    assert report.error < 1e-5
    assert {site.layer.active_adapter for site in adapted_sites(model)} == {"both"}
