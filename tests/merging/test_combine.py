"""One adapter that does what several do together."""

import keras
import models
import numpy as np
import pytest
from cases import numpy, shake
from experts import experts
from two_adapters import WEIGHTS, adapted, check, deltas, peak

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.models.sites.search import adapted_sites

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
    "lora_fa": (ksa.LoRA(rank=3, freeze="a"), None, "LoRA(rank=3, freeze='a')"),
    "frozen_b": (
        ksa.LoRA(rank=3, start="init_b", freeze="b"),
        None,
        "LoRA(rank=3, start='init_b', freeze='b')",
    ),
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


@pytest.mark.parametrize(("method", "other"), CAT.values(), ids=CAT)
def test_what_is_exact_is_found(method, other):
    model = adapted(method, other)
    check(model, ksa.combine(model, WEIGHTS, into="both"))
