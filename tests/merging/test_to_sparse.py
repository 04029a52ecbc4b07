"""To an adapter of the few values that changed most."""

import keras
import numpy as np
import pytest
from cases import batch, numpy, shake
from experts import model_of_experts

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites


def network(method):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(6, name="up"), keras.layers.Dense(5, name="down")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    ksa.enable(model, method, targets=["up", "down"], train="up/bias")
    shake(model)
    return model


def updates(model, name):
    return {
        site.path: numpy(adapters_of(site.layer)[name].delta(site.layer.base_kernel_value()))
        for site in adapted_sites(model, name)
    }


def test_the_second_pass_of_diff_pruning(tmp_path):
    """Exact; then the values that are left alone train, and are stored."""
    model, x = network(methods.DiffPruning(share=0.1)), batch((16, 8))
    ksa.prune(model)
    expected = numpy(model(x))
    assert ksa.to_sparse(model).error == 0
    np.testing.assert_allclose(numpy(model(x)), expected, atol=1e-6)
    ksa.delete_adapter(model, "default")
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == 5 + 3 + 6  # with a bias
    before = updates(model, "sparse")
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, batch((16, 5)), verbose=0)
    moved = updates(model, "sparse")
    for path, update in before.items():
        np.testing.assert_array_equal(moved[path] != update, update != 0)
    expected = numpy(model(x))
    ksa.save_adapter(model, tmp_path / "a.keras")
    fresh = network(methods.DiffPruning())
    ksa.delete_adapter(fresh, "default")
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(numpy(fresh(x)), expected)
    ksa.merge(fresh)
    np.testing.assert_allclose(numpy(fresh(x)), expected, atol=1e-5)


def test_a_share_of_any_adapter():
    model = network(ksa.LoRA(rank=2))
    whole = updates(model, "default")
    report = ksa.to_sparse(model, share=0.25)
    for path, update in updates(model, "sparse").items():
        least = np.sort(np.abs(whole[path]), axis=None)[-round(update.size / 4)]
        kept = np.abs(whole[path]) >= least
        np.testing.assert_array_equal(update, np.where(kept, whole[path], 0))
    assert 0 < report.error < 1


def test_each_expert_has_its_own_places():
    model = model_of_experts()
    ksa.enable(model, ksa.LoRA(rank=2), targets="experts/*")
    shake(model)
    whole = updates(model, "default")
    ksa.to_sparse(model, share=0.1)
    for path, update in updates(model, "sparse").items():
        for one, of_all in zip(update, whole[path], strict=True):
            assert np.count_nonzero(one) == round(one.size / 10)
            np.testing.assert_array_equal(one[one != 0], of_all[one != 0])


def test_only_values_at_equal_places_add():
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(300, name="up")])
    for seed, name in enumerate("ab"):
        ksa.enable(model, methods.SparseDelta(share=0.001), targets="up", name=name)
        shake(model, seed=seed)
    x = batch((4, 40))
    parts = [updates(model, name)["up"] for name in "ab"]
    ksa.combine(model, {"a": 0.5, "b": 2.0}, into="sum", how="linear")
    base = numpy(model.layers[0].base_kernel_value())
    expected = x @ (base + 0.5 * parts[0] + 2 * parts[1])
    np.testing.assert_allclose(numpy(model(x)), expected + numpy(model.layers[0].bias), atol=1e-4)
    places = adapters_of(model.layers[0])["b"].places
    moved = numpy(places)
    moved[-1] -= 1
    places.assign(moved)
    with pytest.raises(ValueError, match="other frozen factors"):
        ksa.combine(model, {"a": 0.5, "b": 2.0}, into="more", how="linear")


def test_what_is_refused():
    model = network(ksa.LoRA(rank=2))
    before = [w.path for w in model.weights]
    for options, match in (
        ({}, "give `share=`.*Received: share=None, 48 of 48"),
        ({"share": 1.5}, "Received: share=1.5"),
        ({"share": 0.1, "into": "default"}, "has an adapter of this name"),
    ):
        with pytest.raises(ValueError, match=match):
            ksa.to_sparse(model, **options)
    assert [w.path for w in model.weights] == before
