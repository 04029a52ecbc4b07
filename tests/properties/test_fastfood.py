"""Intrinsic dimension: random numbers made again from a few integers, the same everywhere."""

import closed_forms_shared as shared
import keras
import models
import numpy as np
import pytest
from cases import batch, build_layer, close, dense, numpy
from snapshots import snapshot

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.methods import fastfood
from keras_svd_adapters.models.sites.search import adapted_sites

KEYS = np.random.default_rng(1).integers(-(2**31), 2**31, fastfood.KEYS).astype("int32")


def tensor(values):
    return keras.ops.convert_to_tensor(values)


@pytest.mark.parametrize("bits", [0, 1, 4, 6, 9])
def test_the_transform_is_that_of_the_matrix(bits):
    x = batch((2**bits,))
    found = numpy(fastfood.walsh_hadamard(tensor(x)))
    close(found, fastfood.hadamard_matrix(bits).astype("float64") @ x, 1e-5)


def test_a_long_transform_makes_no_large_matrix():
    """Applied twice it is `L` times the numbers; its matrix would have 2^36 entries."""
    x = batch((2**18,))
    once = fastfood.walsh_hadamard(tensor(x))
    close(numpy(fastfood.walsh_hadamard(once)) / 2**18, x, 1e-5)


@pytest.mark.parametrize("bits", [1, 5, 12])
def test_the_integers_are_those_of_any_language(bits):
    """Python's integers have no overflow; int32 of each backend wraps around."""
    length, keys = 2**bits, [int(key) for key in KEYS]
    places = keras.ops.arange(length, dtype="int32")
    found = fastfood.permuted(places, tensor(KEYS)[1:5], length)
    found = keras.ops.convert_to_numpy(found)
    assert found.tolist() == [shared.permuted(i, keys[1:5], length) for i in range(length)]
    assert sorted(found) == list(range(length))
    hashes = keras.ops.convert_to_numpy(fastfood.mixed(places, tensor(KEYS)[0]))
    assert hashes.astype("uint32").tolist() == [shared.hashed(i, keys[0]) for i in range(length)]


def test_the_numbers_are_nearly_normal():
    places = keras.ops.arange(2**16, dtype="int32")
    g = numpy(fastfood.nearly_normal(fastfood.mixed(places, tensor(KEYS)[5])))
    assert abs(g.mean()) < 0.01
    assert abs(g.std() - 1) < 0.01
    assert abs((np.abs(g) < 1).mean() - 0.6827) < 0.02


def test_it_keeps_norms_and_angles():
    a, b = batch((200,)), batch((200,), seed=4)
    pa, pb = (numpy(fastfood.projection(tensor(v), tensor(KEYS), 30_000)) for v in (a, b))
    assert abs(np.linalg.norm(pa) / np.linalg.norm(a) - 1) < 0.05
    assert abs(pa @ pb - a @ b) < 0.05 * np.linalg.norm(a) * np.linalg.norm(b)


def test_only_six_integers_are_stored_and_each_kernel_has_its_own():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, name=f"hidden_{i}") for i in range(3)]
    model = keras.Sequential([keras.Input((16,)), *layers, keras.layers.Dense(2, name="head")])
    method = methods.IntrinsicDimension(size=200)
    assert ksa.plan(model, method).frozen_bytes == 3 * 4 * fastfood.KEYS
    ksa.enable(model, method)
    model.trainable_weights[0].assign(batch((200,)))
    changes = []
    for site in adapted_sites(model):
        adapter = adapters_of(site.layer)["default"]
        assert {k: tuple(v.shape) for k, v in adapter.arrays.items()} == {
            "theta": (200,),
            "keys": (fastfood.KEYS,),
        }
        changes.append(numpy(adapter.delta(site.layer.kernel)).ravel())
    assert np.abs(np.corrcoef(changes) - np.eye(3)).max() < 0.3


def test_a_small_update_is_not_rounded_away_in_half_precision():
    layer = build_layer(dense(16, 16)[0], "bfloat16")
    layer.activation = keras.activations.linear
    x = batch((4, 16))
    before = numpy(layer(x))
    ksa.enable(layer, methods.IntrinsicDimension(size=8))
    layer.trainable_weights[0].assign(0.05 * batch((8,)))
    change = numpy(layer(x)) - before
    expected = x @ numpy(layer.adapter().delta(layer.adapter().float32_kernel()))
    assert np.linalg.norm(change - expected) < 0.5 * np.linalg.norm(expected)


def test_more_values_than_a_kernel_has_room_for():
    model, _ = models.bert()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"room for 256 .*Received: size=257"):
        ksa.enable(model, methods.IntrinsicDimension(size=257))
    assert snapshot(model) == before
