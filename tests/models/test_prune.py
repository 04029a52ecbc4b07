"""`prune` leaves the largest parts of an adapter in each kernel; the rest is off."""

import keras
import numpy as np
import pytest
from cases import METHODS, batch, close, numpy, shake
from experts import experts

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites

X, Y = batch((12, 8)), batch((12, 3), seed=4)
RANKS = ["adalora", "sora", "dynamic_dora", "autolora", "allocating_lora", "dylora"]


def adapted(method):
    layers = [keras.layers.Dense(size, name=f"hidden_{size}") for size in (10, 7)]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3, name="head")])
    ksa.enable(model, method)
    shake(model, 0.3)
    return model


def adapters(model):
    return [adapters_of(site.layer)["default"] for site in adapted_sites(model)]


def best_of(method, v, count):
    """The ranks that leave the most of the update, tried one by one; the first ones of DyLoRA."""
    if method.name == "dylora":
        return list(range(count))
    gate = method.gate(v)
    norms = [np.linalg.norm(g * np.outer(a, b)) for g, a, b in zip(gate, v.lora_a.T, v.lora_b)]
    return sorted(np.argsort(norms)[-count:])


@pytest.mark.parametrize("name", RANKS)
def test_the_largest_ranks_are_left(name):
    method = METHODS[name].method
    model = adapted(method)
    expected = [best_of(method, each.numpy_values()[0], 2) for each in adapters(model)]
    ksa.prune(model, 2 / len(numpy(adapters(model)[0].mask)))
    assert [list(np.flatnonzero(numpy(each.mask))) for each in adapters(model)] == expected
    once = model.predict(X, verbose=0)
    model.compile(keras.optimizers.AdamW(1e-3), "mse")
    model.fit(X, Y, epochs=2, verbose=0)
    assert np.abs(model.predict(X, verbose=0) - once).max() > 1e-5
    for adapter in adapters(model):
        assert np.linalg.matrix_rank(numpy(adapter.delta(adapter.kernel())), tol=1e-5) <= 2
    ksa.prune(model, 1e-3)
    assert all(numpy(each.mask).sum() == 1 for each in adapters(model))


def test_the_largest_differences_are_left(tmp_path):
    model = adapted(methods.DiffPruning(share=0.1, openness=0.3))
    v = [each.numpy_values()[0] for each in adapters(model)]
    ksa.prune(model)
    for adapter, before in zip(adapters(model), v, strict=True):
        mask = numpy(adapter.mask) > 0
        assert mask.sum() == round(0.1 * mask.size)
        opened = np.clip(3 / (1 + np.exp(-before.log_alpha)) - 1.5, 0, 1)
        sizes = np.abs(opened * before.diff)  # a difference is small if its gate is closed
        assert sizes[mask].min() >= sizes[~mask].max()
    expected = model.predict(X, verbose=0)
    ksa.save_adapter(model, tmp_path / "a.keras")
    ksa.delete_adapter(model, "default")
    ksa.load_adapter(model, tmp_path / "a.keras")
    close(model.predict(X, verbose=0), expected)


@pytest.mark.parametrize("name", [*RANKS, "diff_pruning"])
def test_what_is_off_stays_off(name):
    model = adapted(METHODS[name].method)
    ksa.prune(model, 1 / 3)
    masks = [numpy(each.mask) for each in adapters(model)]
    expected = model.predict(X, verbose=0)
    ksa.prune(model, 1.0)
    for adapter, mask in zip(adapters(model), masks, strict=True):
        np.testing.assert_array_equal(numpy(adapter.mask), mask)
    np.testing.assert_array_equal(model.predict(X, verbose=0), expected)


def test_autolora_leaves_the_gates_above_the_mean():
    model = adapted(methods.AutoLoRA(rank=3))
    for adapter, gate in zip(adapters(model), ([0.0, 0.0, 0.0], [1.0, 3.0, 2.9]), strict=True):
        adapter.gate.assign(gate)
    ksa.prune(model)
    assert [list(numpy(each.mask)) for each in adapters(model)] == [[1, 1, 1], [0, 1, 1]]


def test_each_kernel_of_a_stack():
    layer = experts()
    ksa.enable(layer, methods.SoRA(rank=4))
    shake(layer)
    ksa.prune(layer, 0.5)
    for site in adapted_sites(layer):
        masks = numpy(adapters_of(site.layer)["default"].mask)
        assert masks.shape == (3, 4)
        assert (masks.sum(1) == 2).all()


@pytest.mark.parametrize(
    ("method", "share", "match"),
    [
        (ksa.LoRA(rank=2), 0.5, "no ranks or values to turn off"),
        (methods.SoRA(rank=2), None, "no rule of its own"),
        (methods.SoRA(rank=2), 0.0, "above 0 and at most 1"),
        (methods.SoRA(rank=2), 1.5, "above 0 and at most 1"),
        (methods.SoRA(rank=2), "half", "above 0 and at most 1"),
    ],
)
def test_what_cannot_be_pruned(method, share, match):
    model = adapted(method)
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"{match}.*Received: "):
        ksa.prune(model, share)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
