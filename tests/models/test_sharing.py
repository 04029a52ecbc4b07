"""One random pair for a model: shared, saved or drawn again, and never in disagreement."""

import keras
import models
import numpy as np
import pytest
from archives import rewritten
from cases import numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters.files.archive import read_archive
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.array_sharing import single_shared_arrays


def pair(model):
    return single_shared_arrays(adapted_sites(model))["vera"]


def tuned(method, name="default", model=None, **how):
    model = model or models.bert()[0]
    ksa.enable(model, method, name=name, **how)
    shake(model)
    return model


def test_the_model_has_one_pair_that_holds_its_largest_kernel():
    model = tuned(ksa.VeRA(rank=6))
    names = [w.name for w in model.non_trainable_weights]
    assert names.count("vera_a") == names.count("vera_b") == 1
    assert pair(model).shapes == {"vera_a": (32, 6), "vera_b": (6, 32)}


def test_the_pair_is_the_same_numbers_everywhere():
    a, b = ksa.VeRA(rank=4, seed=7).start_shared({"vera_a": (6, 4), "vera_b": (4, 9)}).values()
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a[0], GOLDEN_A)
    np.testing.assert_array_equal(b[-1, -3:], GOLDEN_B)
    big = ksa.VeRA(rank=64).start_shared({"vera_a": (600, 64), "vera_b": (64, 900)})
    for name, fan in (("vera_a", 600), ("vera_b", 64)):
        bound = np.sqrt(6 / fan)
        assert 0.99 * bound < np.abs(big[name]).max() <= bound * (1 + 1e-6)
        assert abs(big[name].std() - np.sqrt(2 / fan)) < 0.01 * np.sqrt(2 / fan)
        assert abs(big[name].mean()) < 0.01 * bound


GOLDEN_A = np.float32(
    [0.7441468238830566, -0.4092693328857422, -0.15980470180511475, -0.1892155408859253]
)
GOLDEN_B = np.float32([0.6303837299346924, -0.05187283083796501, 0.7781908512115479])


@pytest.mark.parametrize("stored", [True, False])
def test_the_file_holds_the_pair_or_its_seed(stored, tmp_path):
    model = tuned(ksa.VeRA(rank=6, seed=2, save_projections=stored))
    ksa.save_adapter(model, tmp_path / "a.keras")
    values = read_archive(tmp_path / "a.keras").values
    assert ("shared/vera/vera_a" in values) == stored
    fresh, x = models.bert()
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), models.output(model(x)))


def test_a_pair_that_no_seed_gives_is_stored_anyway(tmp_path):
    model = tuned(ksa.VeRA(rank=6, save_projections=False))
    pair(model).vera_a.assign_add(np.ones((32, 6)))
    ksa.save_adapter(model, tmp_path / "a.keras")
    fresh, x = models.bert()
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), models.output(model(x)))


def test_a_second_adapter_shares_the_pair(tmp_path):
    model = tuned(ksa.VeRA(rank=6))
    first = pair(model)
    ksa.save_adapter(model, tmp_path / "a.keras")
    tuned(ksa.VeRA(rank=6, d_initial=0.01), "second", model, targets="query")
    ksa.load_adapter(model, tmp_path / "a.keras", name="third")
    assert pair(model) is first
    assert [w.name for w in model.weights].count("vera_a") == 1
    ksa.delete_adapter(model, "default")
    assert pair(model) is first


@pytest.mark.parametrize(
    ("method", "targets", "words"),
    [
        (ksa.VeRA(rank=5), None, "use `rank=6`"),
        (ksa.VeRA(rank=6, seed=1), None, "use `seed=0`"),
        (ksa.VeRA(rank=6), "*feedforward*", "larger kernels first"),
    ],
)
def test_adapters_that_disagree(method, targets, words):
    model = tuned(ksa.VeRA(rank=6), targets="query")
    before = [w.path for w in model.weights]
    for do in (ksa.plan, lambda *args: ksa.enable(*args, name="second")):
        with pytest.raises(ValueError, match=words) as caught:
            do(model, method, targets)
        assert "Received: " in str(caught.value)
    assert [w.path for w in model.weights] == before


def test_two_in_one_call_that_disagree():
    model, _ = models.bert()
    rules = {"query": ksa.VeRA(rank=4), "value": ksa.VeRA(rank=5)}
    with pytest.raises(ValueError, match="must agree"):
        ksa.enable(model, targets=rules)
    assert not adapted_sites(model)


def test_a_file_with_another_pair_is_refused(tmp_path):
    model = tuned(ksa.VeRA(rank=6))
    pair(model).vera_b.assign_add(np.ones((6, 32)))
    ksa.save_adapter(model, tmp_path / "a.keras")
    other = tuned(ksa.VeRA(rank=6))
    with pytest.raises(ksa.AdapterFileError, match="other random arrays"):
        ksa.load_adapter(other, tmp_path / "a.keras", name="second")


def test_a_whole_model_keeps_one_pair(tmp_path):
    model, backbone, x = models.classifier()
    tuned(ksa.VeRA(rank=6), model=backbone)
    tuned(ksa.VeRA(rank=6), "head", model, targets="head")
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), expected)
    assert [w.name for w in again.weights].count("vera_a") == 1


@pytest.mark.parametrize("bad", [{"rank": 0}, {"seed": -1}, {"dropout": 1}, {"d_initial": 0}])
def test_bad_hyperparameters(bad):
    with pytest.raises(ValueError, match=r"Received: "):
        ksa.VeRA(**bad)


def parts():
    """A model inside a model, and a head."""
    inner = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, name="a"), keras.layers.Dense(8, name="b")],
        name="inner",
    )
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.Dense(4, name="head")(inner(inputs))), inner


def test_models_around_share_the_pair():
    model, inner = parts()
    ksa.enable(model, ksa.VeRA(rank=5, seed=1), targets="head")
    for method, words in ((ksa.VeRA(rank=5, seed=2), "seed"), (ksa.VeRA(rank=4, seed=1), "rank")):
        with pytest.raises(ValueError, match=words):
            ksa.enable(inner, method, targets=["a", "b"])
        with pytest.raises(ValueError, match=words):
            ksa.plan(inner, method, targets=["a", "b"])
    with pytest.raises(ValueError, match="larger kernels first"):
        ksa.enable(inner, ksa.VeRA(rank=5, seed=1), targets=["a", "b"])


def test_models_inside_keep_one_pair(tmp_path):
    first, second = (
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name=n)], name=f"in_{n}")
        for n in "ab"
    )
    inputs = keras.Input((8,))
    model = keras.Model(inputs, second(first(inputs)))
    tuned(ksa.VeRA(rank=5), model=model, targets=["a", "b"])
    x = np.ones((2, 8), "float32")
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(numpy(again(x)), numpy(model(x)))
    assert [w.name for w in again.weights].count("vera_a") == 1


def test_layers_that_have_their_own_pairs(tmp_path):
    layers = [ksa.VeRADense(built(8, 32), rank=3), ksa.VeRADense(built(32, 4), rank=3, seed=1)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    shake(model)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    x = np.ones((2, 8), "float32")
    np.testing.assert_array_equal(numpy(again(x)), numpy(model(x)))
    with pytest.raises(ValueError, match="2 different sets of shared arrays"):
        ksa.save_adapter(model, tmp_path / "a.keras")


def built(m, n):
    layer = keras.layers.Dense(n)
    layer.build((None, m))
    return layer


def test_weights_without_their_pair_are_noticed(tmp_path):
    one, _ = parts()
    tuned(ksa.VeRA(rank=4, seed=1), model=one, targets=["a", "b"])
    one.save_weights(tmp_path / "w.weights.h5")
    other, _ = parts()
    tuned(ksa.VeRA(rank=4, seed=2), "aa", other, targets=["a", "b"])
    tuned(ksa.VeRA(rank=4, seed=2), "default", other, targets=["a", "b"])
    other.load_weights(tmp_path / "w.weights.h5", skip_mismatch=True)
    with pytest.raises(Exception, match="not the random arrays that it shares"):
        other(np.ones((2, 8), "float32"))


def test_the_pair_has_the_widest_dtype(tmp_path):
    layers = [keras.layers.Dense(8, dtype=d, name=d) for d in ("bfloat16", "float32")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    tuned(ksa.VeRA(rank=4), model=model, targets=["bfloat16", "float32"])
    assert pair(model).compute_dtype == "float32"
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert pair(again).compute_dtype == "float32"
    x = np.ones((2, 8), "float32")
    np.testing.assert_array_equal(numpy(again(x)), numpy(model(x)))


def test_a_model_without_values_is_not_loaded_onto(tmp_path):
    model = tuned(ksa.VeRA(rank=6))
    ksa.save_adapter(model, tmp_path / "a.keras")
    empty = type(model).from_config(model.get_config())
    for refused in (ksa.load_adapter, ksa.save_adapter):
        with pytest.raises(ValueError, match=r"holds no values yet.*Received: to "):
            refused(empty, tmp_path / "a.keras")
    with pytest.raises(ValueError, match="holds no values yet.*Received: to_lora"):
        ksa.to_lora(empty)


def test_a_pair_larger_than_the_model_is_refused(tmp_path):
    model = tuned(ksa.VeRA(rank=6, save_projections=False))
    ksa.save_adapter(model, tmp_path / "a.keras")

    def enlarge(metadata, config):
        config["config"]["shared"]["vera"]["vera_a"] = [10**9, 10**9]

    rewritten(tmp_path / "a.keras", enlarge)
    ksa.delete_adapter(model, "default")
    with pytest.raises(ksa.AdapterFileError, match=r"`vera_a` is .* room for .*Received: "):
        ksa.load_adapter(model, tmp_path / "a.keras")
