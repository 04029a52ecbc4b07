"""Trained arrays that all kernels of an adapter read: one variable, in the file once."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import batch, numpy, shake
from experts import TOKENS, WIDTH, experts
from two_adapters import check

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.files.archive import read_archive
from keras_svd_adapters.models.sites.search import adapted_sites

METHOD = methods.TinyLoRA(rank=2, values=5)
IDS = ["a", None, "b", "a"]


def build():
    keras.utils.set_random_seed(0)
    sizes = (12, 8, 10)
    layers = [keras.layers.Dense(size, "tanh", name=f"hidden_{size}") for size in sizes]
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3, name="head")])


def adapted(*names, **how):
    model = build()
    for seed, name in enumerate(names):
        ksa.enable(model, METHOD, name=name, **how)
        shake(model, seed=seed, size=0.5)
    return model


def latents(model, name):
    """The variable that each kernel of an adapter reads."""
    return [adapters_of(site.layer)[name].arrays["latent"] for site in adapted_sites(model, name)]


def test_one_variable_for_all_kernels():
    model = adapted("a")
    assert len({id(v) for v in latents(model, "a")}) == 1
    assert [w.name for w in model.trainable_weights] == ["latent"]
    plan, status = ksa.plan(build(), METHOD), ksa.status(model)
    assert plan.trainable_parameters == status.trainable_parameters == 5
    assert "  5  " in str(status)
    model.compile(optimizer="adam", loss="mse")
    model.fit(batch((4, 8)), batch((4, 3)), verbose=0)
    assert sum(int(np.prod(v.shape)) == 5 for v in model.optimizer.variables) == 2


def test_its_gradient_is_the_sum_of_those_of_the_kernels():
    model, x, g = adapted("a"), batch((4, 8)), batch((4, 3), seed=4)
    (found,) = gradients(model, x, g)
    change, expected = 1e-2, np.zeros(5)
    (latent,) = model.trainable_weights
    start = numpy(latent)
    for place in range(5):
        ends = []
        for step in (change, -change):
            latent.assign(start + step * np.eye(5)[place])
            ends.append((numpy(model(x)) * g).sum())
        expected[place] = (ends[0] - ends[1]) / (2 * change)
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-3)


def test_each_adapter_has_its_own():
    model, x = adapted("a", "b"), batch((4, 8))
    assert latents(model, "a")[0] is not latents(model, "b")[0]
    mixed = ksa.predict(model, x, IDS)
    for row, name in enumerate(IDS):
        ksa.set_adapter(model, name)
        alone = model.predict(x[row : row + 1], verbose=0)
        np.testing.assert_allclose(mixed[row : row + 1], alone, atol=1e-6)
    ksa.set_adapter(model, "a")
    assert [id(w) for w in model.trainable_weights] == [id(latents(model, "a")[0])]
    ksa.delete_adapter(model, "a")
    ksa.set_adapter(model, "b")
    assert [id(w) for w in model.trainable_weights] == [id(latents(model, "b")[0])]


def test_it_trains_while_its_adapter_is_active_on_any_kernel():
    model = adapted("a")
    ksa.enable(model, METHOD, name="b", targets="hidden_12")
    trained = {id(weight) for weight in model.trainable_weights}
    assert trained == {id(latents(model, name)[0]) for name in "ab"}
    ksa.set_adapter(model, "b")
    assert {id(w) for w in model.trainable_weights} == {id(latents(model, "b")[0])}


def test_files(tmp_path):
    model, x = adapted("a"), batch((4, 8))
    expected = model.predict(x, verbose=0)
    ksa.save_adapter(model, tmp_path / "a.keras")
    stored = read_archive(tmp_path / "a.keras").values
    assert sum(key.endswith("/latent") for key in stored) == 1
    loaded = build()
    ksa.load_adapter(loaded, tmp_path / "a.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    assert len({id(v) for v in latents(loaded, "default")}) == 1
    model.save(tmp_path / "whole.keras")
    whole = keras.models.load_model(tmp_path / "whole.keras")
    np.testing.assert_array_equal(whole.predict(x, verbose=0), expected)
    assert [int(np.prod(w.shape)) for w in whole.trainable_weights] == [5]
    shake(whole)
    assert len({numpy(v).tobytes() for v in latents(whole, "a")}) == 1
    assert np.abs(whole.predict(x, verbose=0) - expected).max() > 1e-3


def test_a_file_of_another_order_of_layers(tmp_path):
    model, x = adapted("a", targets=["hidden_12", "hidden_8"]), batch((4, 8))
    ksa.save_adapter(model, tmp_path / "a.keras")
    expected = model.predict(x, verbose=0)
    ksa.load_adapter(model, tmp_path / "a.keras", name="a")
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)


def test_combined_and_merged():
    model, x = adapted("a", "b"), batch((4, 8))
    with pytest.raises(
        ValueError, match="add exactly"
    ):  # each adapter has random matrices of its own
        ksa.combine(model, {"a": 0.7, "b": -0.3}, into="both", how="linear")
    check(model, ksa.combine(model, {"a": 0.7, "b": -0.3}, into="both"))
    for name in ("b", "both"):
        ksa.delete_adapter(model, name)
    ksa.set_adapter(model, "a")
    expected = model.predict(x, verbose=0)
    ksa.merge(model)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-6)


def test_stacked_kernels():
    layer, x = experts(), batch((TOKENS, WIDTH))
    status = ksa.enable(layer, METHOD, cache=False)
    assert status.trainable_parameters == 5
    before = numpy(layer(x))
    shake(layer, size=0.5)
    assert np.abs(numpy(layer(x)) - before).max() > 1e-3
    for site in adapted_sites(layer):
        each = adapters_of(site.layer)["default"].numpy_values()
        assert {v.latent.tobytes() for v in each} == {each[0].latent.tobytes()}
