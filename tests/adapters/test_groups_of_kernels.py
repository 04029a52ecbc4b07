"""Methods with trained arrays that all kernels of equal shapes read, whatever their start."""

import keras
import mixed_batch
import numpy as np
import pytest
from cases import METHODS, batch, close, numpy, shake
from experts import EXPERTS, TOKENS, WIDTH, experts
from two_adapters import WEIGHTS, check

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.files.archive import read_archive
from keras_svd_adapters.models.sites.search import adapted_sites

TIED = {
    "tied_lora": methods.TiedLoRA(rank=2, alpha=4),
    "shared_lora": methods.TiedLoRA(rank=2, alpha=4, vectors=False),
    "lotr": methods.LoTR(rank=2),
    "vblora": methods.VBLoRA(rank=2, vectors=6, vector_length=4),
    "intrinsic_dimension": methods.IntrinsicDimension(size=9),
}
rows = pytest.mark.parametrize("method", TIED.values(), ids=TIED)
SIZES = (12, 12, 8, 12)  # kernels of shapes (8, 12), (12, 12), (12, 8) and (8, 12)


def build():
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(n, "tanh", name=f"hidden_{place}") for place, n in enumerate(SIZES)
    ]
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3, name="head")])


def adapted(method, *names):
    model = build()
    for seed, name in enumerate(names):
        ksa.enable(model, method, name=name)
        shake(model, seed=seed, size=0.3)
    return model


def groups(model, name):
    """The kernels of an adapter, by the array of each name that they read."""
    found = {}
    for site in adapted_sites(model, name):
        adapter = adapters_of(site.layer)[name]
        for array in adapter.method.tied:
            readers = found.setdefault((array, id(adapter.arrays[array])), [])
            readers.append((adapter.view.m, adapter.view.n))
    return found


def expected_groups(method):
    """The shapes of the kernels that read one array, for each tied array."""
    by_shapes = {}
    for m, n in zip((8, *SIZES), SIZES):
        shapes = [method.arrays(m, n, "additive")[array].shape for array in method.tied]
        by_shapes.setdefault(tuple(shapes), []).append((m, n))
    return sorted(list(by_shapes.values()) * len(method.tied))


@rows
def test_kernels_of_equal_shapes_read_one_array(method):
    model = build()
    plan = ksa.plan(model, method)
    status = ksa.enable(model, method)
    assert sorted(groups(model, "default").values()) == expected_groups(method)
    assert plan.trainable_parameters == status.trainable_parameters
    assert plan.trainable_parameters == sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    several = len(plan.tied_groups) > 1
    assert ("kernels of equal shapes share arrays: " in str(plan)) == several
    assert not several or "(8, 2) and lora_b (2, 12) of 2 kernels" in str(plan)
    assert sum(count for _, count in plan.tied_groups) == len(SIZES)


@rows
def test_all_adapters_start_alike(method):
    """The start of a tied array is of the method's own seed; each adapter has its own array."""
    model, x = build(), batch((4, 8))
    before = numpy(model(x))
    for name in "ab":
        ksa.enable(model, method, name=name)
        np.testing.assert_array_equal(numpy(model(x)), before)
    site = adapted_sites(model)[0]
    a, b = (adapters_of(site.layer)[name].arrays for name in "ab")
    for array in method.tied:
        assert a[array] is not b[array]
        np.testing.assert_array_equal(numpy(a[array]), numpy(b[array]))


@rows
def test_files(method, tmp_path):
    model, x = adapted(method, "a"), batch((4, 8))
    expected = model.predict(x, verbose=0)
    ksa.save_adapter(model, tmp_path / "a.keras")
    stored = read_archive(tmp_path / "a.keras").values
    for array in method.tied:
        count = sum(key.endswith(f"/{array}") for key in stored)
        assert count == len(expected_groups(method)) // len(method.tied)
    loaded = build()
    ksa.load_adapter(loaded, tmp_path / "a.keras", name="b")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    assert sorted(groups(loaded, "b").values()) == expected_groups(method)
    model.save(tmp_path / "whole.keras")
    whole = keras.models.load_model(tmp_path / "whole.keras")
    np.testing.assert_array_equal(whole.predict(x, verbose=0), expected)
    assert sorted(groups(whole, "a").values()) == expected_groups(method)
    shake(whole)
    assert np.abs(whole.predict(x, verbose=0) - expected).max() > 1e-4


@rows
def test_resumed_training_is_uninterrupted(method, tmp_path):
    x, y = batch((12, 8)), batch((12, 3), seed=8)

    def fit(model, first, last):
        model.fit(x, y, 6, last, 0, shuffle=False, initial_epoch=first)
        return model

    def start():
        keras.utils.set_random_seed(5)
        model = adapted(method, "a")
        model.compile(keras.optimizers.Adam(1e-2, weight_decay=1e-2), "mse")
        return model

    straight = fit(start(), 0, 2)
    fit(start(), 0, 1).save(tmp_path / "half.keras")
    again = fit(keras.models.load_model(tmp_path / "half.keras"), 1, 2)
    for one, other in zip(straight.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    slots = [numpy(v) for v in straight.optimizer.variables]
    for one, other in zip(slots, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, numpy(other))


@rows
def test_mixed_batches(method):
    model, x = mixed_batch.small(), mixed_batch.batch()
    mixed_batch.adapted(model, method, targets=["out", "square"])
    mixed = ksa.predict(model, x, mixed_batch.IDS)
    close(mixed, mixed_batch.alone(model, x, mixed_batch.IDS))


@rows
def test_merged_combined_and_deleted(method):
    model, x = adapted(method, "a", "b"), batch((4, 8))
    how = "exact" if type(method).low_rank is not ksa.Method.low_rank else "svd"
    report = ksa.combine(model, WEIGHTS, into="both", how=how, rank=None if how == "exact" else 12)
    check(model, report)
    for name in ("b", "both"):
        ksa.delete_adapter(model, name)
    ksa.set_adapter(model, "a")
    trained = {id(w) for w in model.trainable_weights}
    assert trained >= {key for _, key in groups(model, "a")}
    expected = model.predict(x, verbose=0)
    ksa.merge(model)
    close(model.predict(x, verbose=0), expected)
    ksa.unmerge(model)
    close(model.predict(x, verbose=0), expected)
    ksa.delete_adapter(model, "a")
    assert {w.name for w in model.weights} == {"kernel", "bias"}


@pytest.mark.parametrize("case", [METHODS[name] for name in TIED], ids=TIED)
def test_stacked_kernels(case):
    """All kernels of a stack read one array, and each has its other arrays by itself."""
    layer, plain, x = experts(), experts(), batch((TOKENS, WIDTH))
    before = numpy(layer(x))
    status = ksa.enable(layer, case.method, cache=False)
    assert status.trainable_parameters == ksa.plan(experts(), case.method).trainable_parameters
    np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer)
    for site, kernel in zip(adapted_sites(layer), (plain._up_proj, plain._down_proj), strict=True):
        adapter = adapters_of(site.layer)["default"]
        values = [vars(v) for v in adapter.numpy_values()]
        assert len(values) == EXPERTS
        merged = [
            case.reference(K.astype("float64"), case.method, v)[0]
            for K, v in zip(numpy(kernel), values, strict=True)
        ]
        kernel.assign(np.stack(merged))
    close(numpy(layer(x)), numpy(plain(x)))
