"""Combinations of adapters that are refused, and leave the model as it was."""

import keras
import models
import numpy as np
import pytest
from cases import numpy
from experts import experts
from two_adapters import WEIGHTS, adapted, check

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites

BAD = {
    "unknown": ({"a": 1, "c": 1}, {}, "no such adapter"),
    "no_numbers": ({"a": "much"}, {}, "finite weight"),
    "infinite": ({"a": float("inf")}, {}, "finite weight"),
    "none": ({}, {}, "finite weight"),
    "how": ({"a": 1}, {"how": "sum"}, "must be one of"),
    "true": ({"a": True}, {}, "finite weight"),
    "huge": ({"a": 10**400}, {}, "finite weight"),
    **{
        f"density_{density}": ({"a": 1}, {"how": "ties", "density": density}, "between 0 and 1")
        for density in (0.0, 1.5, True, "all", float("nan"))
    },
    **{
        f"seed_{seed}": ({"a": 1}, {"how": "dare", "seed": seed}, "non-negative integer")
        for seed in (-1, 0.5, True, "one", float("nan"))
    },
    **{
        f"energy_{energy}": ({"a": 1}, {"how": "svd", "energy": energy}, "share between 0 and 1")
        for energy in (0, 2, True, "much", float("nan"))
    },
    "both": ({"a": 1}, {"how": "svd", "rank": 2, "energy": 0.9}, "not both"),
    **{
        f"rank_{rank}": ({"a": 1}, {"how": "svd", "rank": rank}, "positive integer")
        for rank in (0, 1.5, True, "two", float("nan"))
    },
    "rank_of_exact": ({"a": 1}, {"rank": 2}, "`rank` has an effect only with `how='svd'`"),
    "energy_of_cat": ({"a": 1}, {"how": "cat", "energy": 0.9}, "`energy` has an effect only with"),
    "rank_of_values": (
        {"a": 1},
        {"how": "ties", "rank": 2},
        "makes an adapter of the same method, not a LoRA",
    ),
    "density_of_svd": (
        {"a": 1},
        {"how": "svd", "rank": 2, "density": 0.2},
        "`density` has an effect only with `how='ties'` or `how='dare'`",
    ),
    "seed_of_ties": (
        {"a": 1},
        {"how": "ties", "seed": 0},
        "`seed` has an effect only with `how='dare'`",
    ),
    "taken": ({"a": 1}, {"into": "b"}, "has an adapter of this name"),
    "name": ({"a": 1}, {"into": "two words"}, "letters, digits"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_requests(what):
    weights, how, message = BAD[what]
    model = adapted(ksa.SVF())
    refused(model, weights, message, **how)


METHODS = {
    "linear_of_lora": (ksa.LoRA(rank=2), None, {"how": "linear"}, "how='cat'"),
    "linear_of_two_methods": (ksa.SVF(), ksa.SVFT(), {"how": "linear"}, "different methods"),
    "linear_of_two_ranks": (
        ksa.LoRAXS(rank=2),
        ksa.LoRAXS(rank=3),
        {"how": "linear"},
        "how='svd'",
    ),
    "nothing_exact": (ksa.SVF(), ksa.LoRA(rank=2), {}, "how='svd'"),
    "cat_of_svf": (ksa.SVF(), None, {"how": "cat"}, "has no exact LoRA"),
    "svd_without_rank": (ksa.SVF(), None, {"how": "svd"}, "`rank=` or `energy=`"),
}


@pytest.mark.parametrize(("method", "other", "how", "message"), METHODS.values(), ids=METHODS)
def test_methods_that_do_not_suit(method, other, how, message):
    refused(adapted(method, other), {"a": 1, "b": 1}, message, **how)


def refused(model, weights, message, into="both", **how):
    before = {w.path: numpy(w) for w in model.weights}
    with pytest.raises(ValueError, match=message) as error:
        ksa.combine(model, weights, into=into, **how)
    assert "Received: " in str(error.value)
    assert {w.path: None for w in model.weights} == dict.fromkeys(before)


def test_a_name_that_other_kernels_have():
    model, _ = models.bert()
    ksa.enable(model, ksa.SVF(), name="a", targets="query")
    ksa.enable(model, ksa.SVF(), name="b", targets="key")
    refused(model, {"a": 1}, "key` has an adapter of this name.*another `into=`", into="b")
    with pytest.raises(ValueError, match="key` has an adapter of this name"):
        ksa.to_lora(model, "a", into="b", rank=1)


def test_unlike_frozen_factors():
    model = adapted(ksa.LoRA(rank=2, freeze="a"), ksa.LoRA(rank=2, freeze="a", seed=1))
    refused(model, WEIGHTS, "other frozen factors.*another seed", how="linear")
    refused(adapted(ksa.LoRA(rank=2)), WEIGHTS, "LoRA with a frozen factor", how="linear")


def test_unlike_patterns_of_stacked_kernels():
    model = adapted(ksa.SVFT(), ksa.SVFT("banded", d=1), build=experts)
    refused(model, WEIGHTS, "Patterns of stacked kernels must be equal", how="linear")
    check(model, ksa.combine(model, WEIGHTS, into="both", how="svd", energy=1.0))


def test_values_that_are_not_finite():
    model = adapted(ksa.LoRA(rank=2))
    variable = adapters_of(adapted_sites(model)[0].layer)["a"].lora_b
    variable.assign(np.full(variable.shape, np.nan))
    refused(model, {"a": 1, "b": 1}, "NaN or infinite", how="cat")


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("how", ["svd", "ties", "dare"])
def test_a_change_that_overflows(how):
    refused(adapted(ksa.LoRA(rank=2)), {"a": 1e300, "b": 1}, "lower the weights", how=how)


def test_a_sum_that_overflows_leaves_nothing():
    model = adapted(ksa.SVF())
    refused(model, {"a": 1e300, "b": 1}, "NaN or infinite")
    assert {site.layer.active_adapter for site in adapted_sites(model)} == {"b"}


def test_other_singular_vectors():
    model = adapted(ksa.SVFT("banded", d=1))
    adapter = adapters_of(adapted_sites(model)[0].layer)["a"]
    factor = adapter.arrays.get("U", adapter.arrays.get("Vt"))
    factor.assign(keras.ops.negative(factor))
    refused(model, {"a": 1, "b": 1}, "different singular vectors", how="linear")
