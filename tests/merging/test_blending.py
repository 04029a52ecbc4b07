"""Adapters that are blended by TIES and DARE."""

import numpy as np
import pytest
from two_adapters import WEIGHTS, adapted, deltas

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.merging.combining.blending import dare, ties
from keras_svd_adapters.models.sites.search import adapted_sites


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.7, 0.2, 1.5]])
def test_ties_is_that_of_peft(density, weights):
    import torch
    from peft.utils.merge_utils import ties as of_peft

    changes = list(np.random.default_rng(0).normal(size=(3, 8, 10)))
    expected = of_peft([torch.tensor(c) for c in changes], torch.tensor(weights), density)
    np.testing.assert_allclose(ties(changes, weights, density), expected.numpy(), atol=1e-6)


def test_ties_keeps_something():
    changes = [np.array([[1.0, -3.0], [0.5, 2.0]]), np.array([[4.0, 0.0], [0.0, 1.0]])]
    np.testing.assert_array_equal(ties(changes, [1.0, 1.0], 0.01), [[4.0, -3.0], [0.0, 0.0]])


def test_dare_keeps_the_mean():
    changes = [np.ones((400, 500)), 2 * np.ones((400, 500))]
    found = dare(changes, [1.0, 0.5], 0.25, np.random.default_rng(0))
    assert abs(found.mean() - 2) < 0.02
    assert set(np.unique(found)) == {0.0, 4.0, 8.0}


@pytest.mark.parametrize("how", ["ties", "dare"])
@pytest.mark.parametrize("method", [ksa.SVF(), ksa.LoRA(rank=2)], ids=str)
def test_ties_and_dare(how, method):
    """Of SVF on its values, of LoRA on the changes of the kernels."""
    model = adapted(method)
    ksa.combine(model, {"a": 1, "b": 1}, into="both", how=how, density=0.5)
    again = adapted(method)
    ksa.combine(again, {"a": 1, "b": 1}, into="both", how=how, density=0.5)
    for mine, theirs in zip(deltas(model, "both"), deltas(again, "both")):
        np.testing.assert_array_equal(mine, theirs)
        assert np.any(mine)
    kinds = {type(adapters_of(s.layer)["both"].method) for s in adapted_sites(model)}
    assert kinds == {type(method)}


def test_the_error_of_a_blend_is_that_of_holding_it():
    model = adapted(ksa.LoRA(rank=2))
    whole = {"how": "dare", "density": 0.5, "rank": 100}
    report = ksa.combine(model, WEIGHTS, into="both", **whole)
    assert report.error < 1e-5
    assert "differs from the blend of 'dare', which is not the weighted sum," in str(report)
    ksa.combine(model, WEIGHTS, into="other", seed=1, **whole)
    assert np.abs(deltas(model, "both")[0] - deltas(model, "other")[0]).max() > 1e-2
    assert ksa.combine(adapted(ksa.SVF()), WEIGHTS, into="both", how="ties").error == 0
    assert "from the weighted sum by" in str(ksa.combine(model, WEIGHTS, into="sum"))
