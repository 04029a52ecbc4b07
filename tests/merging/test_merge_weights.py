"""Merging adapters with weights; the others stay, and wait for `unmerge`."""

import keras
import numpy as np
import pytest
from cases import numpy, shake
from mixed_batch import batch, small
from snapshots import bits, refused

import keras_svd_adapters as ksa
from keras_svd_adapters.models.sites.search import adapted_sites


def with_three(dtype="float32"):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    model = small()
    keras.config.set_dtype_policy(before)
    for name, method in (("a", ksa.LoRA(rank=2)), ("b", ksa.SVF()), ("c", ksa.DoRA(rank=2))):
        ksa.enable(model, method, ["heads", "square"], name=name)
        shake(model, 0.2, seed=ord(name))
    return model


def y(model):
    return numpy(model(batch()))


WEIGHTS = {"a": 0.4, "b": 1.0}


@pytest.mark.parametrize(
    ("active", "dtype"),
    [("a", "float32"), (WEIGHTS, "mixed_bfloat16"), (WEIGHTS, "bfloat16")],
    ids=["one", "mixed", "bfloat16"],
)
def test_others_stay(active, dtype):
    model = with_three(dtype)
    ksa.set_adapter(model, "c")
    with_c = y(model)
    ksa.set_adapter(model, active)
    expected, before = y(model), bits(model)
    trained = [weight.path for weight in model.trainable_weights]
    ksa.merge(model)
    tolerance = 1e-5 if dtype == "float32" else 0.1
    np.testing.assert_allclose(y(model), expected, rtol=0, atol=tolerance)
    assert not model.trainable_weights
    assert all("c" in s.layer.carried_adapters for s in adapted_sites(model))
    ksa.unmerge(model)
    assert bits(model) == before
    assert [weight.path for weight in model.trainable_weights] == trained
    np.testing.assert_array_equal(y(model), expected)
    ksa.set_adapter(model, "c")
    np.testing.assert_array_equal(y(model), with_c)


def test_one_of_the_others_asks_for_unmerge(tmp_path):
    model = with_three()
    ksa.set_adapter(model, WEIGHTS)
    ksa.merge(model)
    merged = y(model)
    for verb in (
        lambda: ksa.set_adapter(model, "c"),
        lambda: ksa.set_adapter(model, {"c": 0.5}),
        lambda: ksa.predict(model, batch(), ["c"] * 5),
        lambda: ksa.save_adapter(model, tmp_path / "c.keras"),
    ):
        with refused(model, "`unmerge.model.` first"):
            verb()
    with refused(model, "not active"):
        ksa.merge(model)
    ksa.set_adapter(model, None)
    np.testing.assert_array_equal(y(model), merged)
    model.save(tmp_path / "merged.keras")
    again = keras.saving.load_model(tmp_path / "merged.keras")
    np.testing.assert_array_equal(y(again), merged)
    with pytest.raises(ValueError, match="`unmerge.model.` first"):
        ksa.set_adapter(again, "c")
    ksa.enable(model, ksa.LoRA(rank=1), ["square"], name="d")
    with refused(model, "received adapters after its `merge`"):
        ksa.unmerge(model)
    for name in "dc":
        ksa.delete_adapter(model, name)
    assert not adapted_sites(model)
    np.testing.assert_array_equal(y(model), merged)
    ksa.unmerge(model)
    assert ksa.status(model).adapters[0][-1] == "0.4"


def test_others_need_a_copy_of_the_kernels():
    model = with_three()
    with refused(model, "without a copy of the kernels"):
        ksa.merge(model, keep_base=False)
    ksa.set_adapter(model, "a")
    with refused(model, "more than `tolerance`"):
        ksa.merge(model, tolerance=0.0, probe=batch())


def test_a_layer_without_the_merged_adapter():
    model = small()
    ksa.enable(model, ksa.LoRA(rank=2), "square", name="a")
    ksa.enable(model, ksa.LoRA(rank=2), "heads", name="b")
    shake(model)
    ksa.set_adapter(model, "a")
    expected = y(model)
    ksa.merge(model)
    np.testing.assert_allclose(y(model), expected, rtol=0, atol=1e-5)
    ksa.set_adapter(model, "b")  # whose kernels are unchanged
    ksa.unmerge(model)
    assert ksa.status(model).adapters[0][-1] == "yes"


def test_the_order_of_the_variables_stays():
    """Functions that JAX compiled have the variables in their order."""
    model = with_three()
    ksa.set_adapter(model, "a")
    model.compile(run_eagerly=False)
    paths, expected = [w.path for w in model.weights], model.predict(batch(), verbose=0)
    with pytest.raises(ValueError, match="more than `tolerance`"):
        ksa.merge(model, tolerance=0.0, probe=batch())
    assert [w.path for w in model.weights] == paths
    np.testing.assert_array_equal(model.predict(batch(), verbose=0), expected)
    ksa.merge(model)
    ksa.unmerge(model)
    assert [w.path for w in model.weights] == paths
