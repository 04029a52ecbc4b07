"""One adapter that does what several do together."""

import keras
import models
import numpy as np
import pytest
from cases import numpy, shake
from experts import experts
from two_adapters import adapted, deltas, peak

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.merging.combining.blending import dare, ties
from keras_svd_adapters.models.sites.search import adapted_sites

WEIGHTS = {"a": 0.7, "b": -0.3}


def check(model, report, atol=1e-6):
    for a, b, both in zip(deltas(model, "a"), deltas(model, "b"), deltas(model, "both")):
        np.testing.assert_allclose(both, 0.7 * a - 0.3 * b, atol=atol)
        assert np.abs(both).max() > 1e-3
    assert report.error < 1e-5
    assert {site.layer.active_adapter for site in adapted_sites(model)} == {"both"}


LINEAR = {
    "svf": (ksa.SVF(), None, "SVF()"),
    "svf_factored": (ksa.SVF(), ksa.SVF(formulation="factored"), "SVF()"),
    "svft": (ksa.SVFT(), None, "SVFT()"),
    "banded": (ksa.SVFT("banded", d=2), None, "SVFT(pattern='banded', d=2)"),
    "random": (ksa.SVFT("random", nnz=30, seed=1), None, "SVFT(pattern='random', nnz=30, seed=1)"),
    "band_in_band": (ksa.SVFT(), ksa.SVFT("banded", d=2), "SVFT(pattern='banded', d=2)"),
    "union": (ksa.SVFT("random", nnz=30, seed=1), ksa.SVFT("banded", d=1), "random"),
    "two_random": (ksa.SVFT("random", nnz=9, seed=1), ksa.SVFT("random", nnz=9, seed=2), "random"),
    "lora_xs": (ksa.LoRAXS(rank=3, alpha=6), None, "LoRAXS(rank=3, alpha=6)"),
    "lora_xs_of_one_scale": (ksa.LoRAXS(rank=3, alpha=3), ksa.LoRAXS(rank=3), "LoRAXS(rank=3"),
    "rows": (ksa.TokenRows([7, 0, 4]), None, "TokenRows(rows=(7, 0, 4))"),
    "rows_in_another_order": (ksa.TokenRows([7, 0]), ksa.TokenRows([0, 7]), "rows=(0, 7)"),
    "rows_united": (ksa.TokenRows([7, 0]), ksa.TokenRows([4, 7]), "rows=(0, 4, 7)"),
}


@pytest.mark.parametrize(("method", "other", "expected"), LINEAR.values(), ids=LINEAR)
def test_linear_is_the_sum(method, other, expected, tmp_path):
    model = adapted(method, other)
    report = ksa.combine(model, WEIGHTS, into="both")
    check(model, report)
    assert expected in str(report)
    ksa.save_adapter(model, tmp_path / "both.keras", name="both")
    fresh = models.bert()[0]
    ksa.load_adapter(fresh, tmp_path / "both.keras", name="both", cache=False)
    for mine, theirs in zip(deltas(model, "both"), deltas(fresh, "both"), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-6)


CAT = {
    "lora": (ksa.LoRA(rank=3, alpha=12), ksa.LoRA(rank=2)),
    "pissa": (ksa.PiSSA(rank=2), ksa.MiLoRA(rank=1)),
    "vera": (ksa.VeRA(rank=4), None),
    "lora_xs": (ksa.LoRAXS(rank=3), ksa.LoRA(rank=2)),
    "lora_xs_of_two_scales": (ksa.LoRAXS(rank=3, alpha=6), ksa.LoRAXS(rank=3)),
    "rows": (ksa.TokenRows([7, 0]), ksa.LoRA(rank=2)),
    "of_more_than_all": (ksa.LoRA(rank=9), ksa.LoRA(rank=9)),
}


@pytest.mark.parametrize(("method", "other"), CAT.values(), ids=CAT)
def test_cat_is_the_sum(method, other):
    model = adapted(method, other)
    check(model, ksa.combine(model, WEIGHTS, into="both", how="cat"))


@pytest.mark.parametrize("method", [ksa.DoRA(rank=2), ksa.SVF(), ksa.LoRA(rank=2)], ids=str)
def test_svd_of_all_ranks_is_the_sum(method):
    model = adapted(method, ksa.SVFT("banded", d=1))
    check(model, ksa.combine(model, WEIGHTS, into="both", how="svd", rank=100))


def test_svd_keeps_what_is_asked_for():
    model = adapted(ksa.LoRA(rank=4))
    report = ksa.combine(model, WEIGHTS, into="both", how="svd", energy=0.9)
    assert 0.1 < report.error <= np.sqrt(0.1) + 1e-6
    for a, b, both in zip(deltas(model, "a"), deltas(model, "b"), deltas(model, "both")):
        wanted = (0.7 * a - 0.3 * b).reshape(len(a), -1)
        error = np.linalg.norm(both.reshape(len(a), -1) - wanted) / np.linalg.norm(wanted)
        assert error <= report.error + 1e-6
    assert "LoRA(rank=4)" in str(ksa.combine(model, WEIGHTS, into="four", how="svd"))


EXPERTS = {
    "svf": (ksa.SVF(), None),
    "random": (ksa.SVFT("random", d=1), None),
    "rows": (ksa.TokenRows([7, 0]), ksa.TokenRows([4, 7])),
}


@pytest.mark.parametrize(("method", "other"), EXPERTS.values(), ids=EXPERTS)
def test_experts(method, other):
    model = adapted(method, other, build=experts)
    check(model, ksa.combine(model, WEIGHTS, into="both"))


def test_experts_of_lora():
    model = adapted(ksa.LoRA(rank=2), ksa.LoRA(rank=1), build=experts)
    check(model, ksa.combine(model, WEIGHTS, into="both", how="cat"))


def test_negation_takes_an_adapter_back():
    model = adapted(ksa.SVF())
    ksa.combine(model, {"a": -1}, into="less")
    for a, less in zip(deltas(model, "a"), deltas(model, "less")):
        np.testing.assert_allclose(less, -a, atol=1e-6)


def test_a_kernel_that_one_adapter_lacks():
    model, _ = models.bert()
    ksa.enable(model, ksa.SVF(), name="a", targets="query")
    shake(model)
    ksa.enable(model, ksa.SVF(), name="b", targets=["query", "key"])
    shake(model)
    ksa.combine(model, {"a": 1, "b": 1}, into="both")
    for site in adapted_sites(model, "both"):
        carried = adapters_of(site.layer)
        parts = [carried[name] for name in ("a", "b") if name in carried]
        total = sum(numpy(part.delta(base_kernel_variable(site.layer))) for part in parts)
        both = numpy(carried["both"].delta(base_kernel_variable(site.layer)))
        np.testing.assert_allclose(both, total, atol=1e-6)


def test_each_kernel_in_its_exact_way():
    model, _ = models.bert()
    for seed, name in enumerate("ab"):
        ksa.enable(model, targets={"query": ksa.SVF(), "key": ksa.LoRA(rank=2)}, name=name)
        shake(model, seed=seed)
    check(model, ksa.combine(model, WEIGHTS, into="both"))
    kinds = {s.name: str(adapters_of(s.layer)["both"].method) for s in adapted_sites(model)}
    assert kinds == {"query": "SVF()", "key": "LoRA(rank=4)"}


@pytest.mark.parametrize(("weights", "rank"), [({"b": 0, "a": 1}, 3), ({"b": 0, "a": 0}, 2)])
def test_a_weight_of_zero_adds_no_rank(weights, rank):
    model = adapted(ksa.LoRA(rank=3), ksa.LoRA(rank=2))
    report = ksa.combine(model, weights, into="both", how="cat")
    assert {kernel.method for kernel in report.kernels} == {f"LoRA(rank={rank})"}
    for a, both in zip(deltas(model, "a"), deltas(model, "both"), strict=True):
        np.testing.assert_allclose(both, weights["a"] * a, atol=1e-6)


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
    "rank_of_exact": ({"a": 1}, {"rank": 2}, "`rank` has a part in `how='svd'`"),
    "energy_of_cat": ({"a": 1}, {"how": "cat", "energy": 0.9}, "`energy` has a part in"),
    "rank_of_values": (
        {"a": 1},
        {"how": "ties", "rank": 2},
        "makes an adapter of the same method, not a LoRA",
    ),
    "density_of_svd": (
        {"a": 1},
        {"how": "svd", "rank": 2, "density": 0.2},
        "`density` has a part in `how='ties'` or `how='dare'` only",
    ),
    "seed_of_ties": ({"a": 1}, {"how": "ties", "seed": 0}, "`seed` has a part in `how='dare'`"),
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


def test_unlike_patterns_of_stacked_kernels():
    model = adapted(ksa.SVFT(), ksa.SVFT("banded", d=1), build=experts)
    refused(model, WEIGHTS, "Patterns of stacked kernels must be equal", how="linear")
    check(model, ksa.combine(model, WEIGHTS, into="both", how="svd", energy=1.0))


def test_one_kernel_is_in_memory_at_a_time():
    width, count = 256, 24
    layers = [keras.layers.Dense(width) for _ in range(count)]
    model = keras.Sequential([keras.Input((width,)), *layers])
    ksa.enable(model, ksa.LoRA(rank=1), name="a", targets="dense*")
    shake(model)
    every = count * width * width * np.dtype("float64").itemsize
    assert peak(lambda: ksa.to_lora(model, "a", rank=1)) < every / 2
    both = {"a": 1, "lora": 1}
    assert peak(lambda: ksa.combine(model, both, into="both", how="svd", rank=1)) < every / 2


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


@pytest.mark.parametrize(("method", "other"), CAT.values(), ids=CAT)
def test_what_is_exact_is_found(method, other):
    model = adapted(method, other)
    check(model, ksa.combine(model, WEIGHTS, into="both"))
