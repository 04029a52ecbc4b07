"""Which layers keep a LoRA of their own, and which ranks grow with the depth."""

import keras
import numpy as np
import pytest

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites

X = np.random.default_rng(3).normal(size=(12, 6)).astype("float32")
SIZES = {"query": (5, 4, 1), "value": (1, 8, 1)}  # squared norms of the branches
METHOD = ksa.LoRA(rank=1, alpha=3, dropout=0.5)


def planted(sizes=SIZES, units=None):
    """A model whose kernels read the same inputs, with branches of known norms."""
    inputs = keras.Input((6,))
    layers = {
        f"{kind}_{i}": keras.layers.Dense((units or {}).get(f"{kind}_{i}", 4), name=f"{kind}_{i}")
        for kind, each in sizes.items()
        for i in range(len(each))
    }
    outputs = [layer(inputs) for layer in layers.values()]
    model = keras.Model(inputs, keras.layers.concatenate(outputs))
    ksa.enable(model, METHOD, targets=list(layers))
    for name, layer in layers.items():
        kind, place = name.split("_")
        arrays = layer.adapter().arrays
        arrays["lora_a"].assign(np.eye(6)[:, :1])
        arrays["lora_b"].assign(np.sqrt(sizes[kind][int(place)]) * np.eye(1, layer.units))
    return model


def kept(mapping):
    return {name for name, method in mapping.items() if isinstance(method, ksa.LoRA)}


def test_importance_is_the_share_of_the_norms():
    report = ksa.observe(planted(), X, "branch_norms")
    square = 9 * (X[:, 0].astype("float64") ** 2).mean()  # the scale is 3
    for kind, sizes in SIZES.items():
        for place, size in enumerate(sizes):
            found = report[f"{kind}_{place}"]
            np.testing.assert_allclose(found.branch_norms, size * square, rtol=1e-6)
            assert found.kind == f"{kind}_#"
            assert report.importance()[f"{kind}_{place}"] == pytest.approx(size / sum(sizes))
    assert sum(report.importance().values()) == pytest.approx(2)
    assert sum(report.importance(by_kind=False).values()) == pytest.approx(1)
    assert report.importance(by_kind=False)["value_1"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("share", "by_kind", "expected"),
    [
        (0.9, True, {"query_0", "query_1", "value_1", "value_0"}),
        (0.8, True, {"query_0", "query_1", "value_1"}),
        (0.01, True, {"query_0", "value_1"}),
        (0.65, False, {"query_0", "value_1"}),
        (0.66, False, {"query_0", "value_1", "query_1"}),
        (1.0, False, {f"{kind}_{i}" for kind in SIZES for i in range(3)}),
    ],
)
def test_layers_are_kept_in_falling_order_until_their_share(share, by_kind, expected):
    report = ksa.observe(planted(), X, "branch_norms")
    mapping = ksa.keep_layers(report, share, by_kind=by_kind)
    assert list(mapping) == list(report)
    assert kept(mapping) == expected
    shared = {name: method for name, method in mapping.items() if name not in kept(mapping)}
    assert set(shared.values()) <= {methods.TiedLoRA(1, 3, vectors=False)}
    assert all(mapping[name] is METHOD for name in kept(mapping))


def test_a_second_enable_shares_one_lora_per_shape():
    sizes = {"query": (9, 1, 1), "value": (9, 1, 1), "odd": (9, 1)}
    model = planted(sizes, {"value_0": 5, "value_1": 5, "value_2": 5, "odd_1": 7})
    mapping = ksa.keep_layers(ksa.observe(model, X, "branch_norms"), 0.8, ksa.LoRA(2))
    assert kept(mapping) == {"query_0", "value_0", "odd_0", "odd_1"}  # no other of shape (6, 7)
    ksa.delete_adapter(model, "default")
    status = ksa.enable(model, targets=mapping)
    arrays = {s.name: adapters_of(s.layer)["default"].arrays for s in adapted_sites(model)}
    for one, other in (("query_1", "query_2"), ("value_1", "value_2")):
        assert arrays[one]["lora_a"] is arrays[other]["lora_a"]
        assert arrays[one]["lora_b"] is arrays[other]["lora_b"]
    assert arrays["query_1"]["lora_a"] is not arrays["value_1"]["lora_a"]
    assert status.trainable_parameters == 2 * (2 * (6 + 4) + 2 * (6 + 5) + (6 + 4) + (6 + 7))


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"share": 0.0}, r"in \(0, 1\]"),
        ({"share": 1.1}, r"in \(0, 1\]"),
        ({"share": "most"}, r"in \(0, 1\]"),
        ({"report": {}}, "`report` is what"),
        ({"method": ksa.SVF()}, "has none: give `method=LoRA"),
    ],
)
def test_choices_that_cannot_be(how, match):
    report = ksa.observe(planted(), X, "branch_norms")
    with pytest.raises(ValueError, match=f"(?s){match}.*Received: "):
        ksa.keep_layers(**({"report": report, "share": 0.5} | how))


def test_an_adapter_that_changes_nothing_has_no_order():
    model = planted({"query": (0, 0), "value": (1, 1)})
    report = ksa.observe(model, X, "branch_norms")
    with pytest.raises(ValueError, match="train it first.*Received: .*query_#"):
        ksa.keep_layers(report)
    assert len(ksa.keep_layers(report, 0.5, by_kind=False)) == 4


def deep(blocks, width=12):
    layers = [
        keras.Sequential([keras.layers.Dense(width, name="up")], name=f"block_{i}")
        for i in range(blocks)
    ]
    return keras.Sequential([keras.Input((width,)), *layers, keras.layers.Dense(2, name="head")])


@pytest.mark.parametrize(
    ("first", "last", "ranks"),
    [
        (4, 12, [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]),
        (1, 4, [1, 2, 3, 4]),
        (1, 2, [1, 2, 2]),  # 1.5 is rounded up
        (3, 1, [3, 2, 1]),
    ],
)
def test_ranks_by_depth(first, last, ranks):
    model = deep(len(ranks))
    mapping = ksa.rank_by_depth(model, first, last, ksa.LoRA(alpha=5))
    assert mapping == {f"block_{i}/up": ksa.LoRA(rank, 5) for i, rank in enumerate(ranks)}
    assert ksa.plan(model, targets=mapping).trainable_parameters == sum(ranks) * (12 + 12)
    some = ksa.rank_by_depth(model, first, last, targets="*up", exclude="block_0/*")
    assert [method.rank for method in some.values()] == ranks[1:]


def test_experts_by_depth():
    model, method = deep(4), methods.MoLA(rank=2)
    mapping = ksa.rank_by_depth(model, 2, 8, method, field="experts")
    assert [each.experts for each in mapping.values()] == [2, 4, 6, 8]
    assert {each.rank for each in mapping.values()} == {2}
    ksa.enable(model, targets=mapping)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"field": "experts"}, "needs the field `experts`.*field='experts'"),
        ({"first": 0}, "`first` must be a positive integer.*first=0"),
        ({"last": 2.5}, "`last` must be a positive integer.*last=2.5"),
        ({"method": ksa.SVF()}, "needs the field `rank`.*SVF"),
        ({"method": "lora"}, "needs the field `rank`"),
        ({"targets": "down"}, "matches no layer"),
        ({"targets": ["up", "head"]}, "inside repeated blocks.*head"),
    ],
)
def test_ranks_that_cannot_be(how, match):
    with pytest.raises(ValueError, match=f"(?s){match}"):
        ksa.rank_by_depth(deep(3), **({"first": 1, "last": 4} | how))
