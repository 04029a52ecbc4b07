"""Biases and vectors of normalizations: adapted as differences, the base's own stay."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import batch, numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.models.sites.search import adapted_sites

L = keras.layers
METHODS = {"bitfit": methods.BitFit(), "ln_tuning": methods.LNTuning()}
IDS = ["a", None, "b", "a"]
COVERED = {
    "bitfit": "first/bias ln/beta attention/query/bias attention/key/bias attention/value/bias "
    "attention/attention_output/bias group/beta conv/bias",
    "ln_tuning": "ln/gamma ln/beta group/gamma group/beta rms/scale",
}
table = pytest.mark.parametrize("name", METHODS)


def build(dtype="float32", whole=False):
    """Some layers with vectors; the whole model has each kind of layer that has any."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(dtype)
    inputs = keras.Input((6, 8))
    x = L.Dense(8, name="first")(inputs)
    x = L.LayerNormalization(name="ln")(x)
    x = L.BatchNormalization(name="batch")(x)
    if whole:
        x = L.MultiHeadAttention(2, 4, name="attention")(x, x)
        x = L.GroupNormalization(2, name="group")(x)
        x = L.Conv1D(8, 3, name="conv")(x)
        x = L.GlobalAveragePooling1D()(x)
        x = L.RMSNormalization(name="rms")(x)
    model = keras.Model(inputs, L.Dense(3, name="head")(x))
    keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if "moving" not in weight.path:
            weight.assign_add(0.1 * rng.normal(size=weight.shape))
    return model


def with_two(name, whole=False):
    """A model with the adapters `a` and `b`, moved away from their starts."""
    model = build(whole=whole)
    for seed, adapter in enumerate("ab"):
        ksa.enable(model, METHODS[name], name=adapter)
        shake(model, seed=seed)
    return model


def changed_by_hand(model, adapter):
    """A plain model whose own vectors have the shifts of an adapter."""
    plain = build(whole=len(model.layers) > 5)
    own = {weight.path: weight for weight in plain.weights}
    for site in adapted_sites(model):
        shift = getattr(site.layer, f"adapter_{adapter}").shift
        weight = own[site.layer.kernel.path]
        weight.assign_add(np.reshape(numpy(shift), weight.shape))
    return plain


@table
def test_which_vectors(name):
    model = build(whole=True)
    ksa.enable(model, METHODS[name])
    assert {site.path for site in adapted_sites(model)} == set(COVERED[name].split())
    counts = [int(np.prod(site.shape)) for site in adapted_sites(model)]
    assert sum(counts) == ksa.plan(build(whole=True), METHODS[name]).trainable_parameters
    assert [w.name for w in model.trainable_weights] == ["shift"] * len(counts)


def test_statistics_of_data_are_no_vectors():
    layer = L.Normalization()
    layer.adapt(batch((4, 8)))
    model = keras.Sequential([keras.Input((8,)), layer, L.LayerNormalization(name="ln")])
    ksa.enable(model, methods.LNTuning())
    assert {site.path for site in adapted_sites(model)} == {"ln/gamma", "ln/beta"}


@table
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
def test_exact_at_the_start(name, dtype):
    model, x = build(dtype, whole=True), batch((4, 6, 8))
    before = model.predict(x, verbose=0)
    ksa.enable(model, METHODS[name])
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    shake(model)
    assert (model.predict(x, verbose=0) != before).any()


@table
def test_outputs_and_gradients_are_those_of_the_vectors_themselves(name):
    model, x = with_two(name, whole=True), batch((4, 6, 8))
    plain, g = changed_by_hand(model, "b"), batch((4, 3), seed=4)
    np.testing.assert_allclose(numpy(model(x)), numpy(plain(x)), atol=1e-6)
    plain.get_layer("batch").trainable = False
    of_plain = dict(zip([w.path for w in plain.trainable_weights], gradients(plain, x, g)))
    found = dict(zip([id(w) for w in model.trainable_weights], gradients(model, x, g)))
    for site in adapted_sites(model):
        expected = of_plain[site.layer.kernel.path]
        ours = found.pop(id(site.layer.adapter_b.shift))
        np.testing.assert_allclose(np.reshape(ours, expected.shape), expected, atol=1e-4)
    assert not found


@table
def test_switched_off_switched_and_mixed(name):
    model, x = with_two(name), batch((4, 6, 8))
    plain = build().predict(x, verbose=0)
    with ksa.disabled(model):
        np.testing.assert_array_equal(model.predict(x, verbose=0), plain)
    alone = {None: plain}
    for adapter in "ab":
        ksa.set_adapter(model, adapter)
        alone[adapter] = model.predict(x, verbose=0)
    mixed = ksa.predict(model, x, IDS)
    expected = [alone[adapter][row] for row, adapter in enumerate(IDS)]
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    assert len({values.tobytes() for values in alone.values()}) == 3


def test_mixed_with_adapters_of_kernels():
    model, x = build(), batch((4, 6, 8))
    by_pattern = {"first": ksa.LoRA(rank=2), "*bias": methods.BitFit(), "ln": methods.LNTuning()}
    for seed, adapter in enumerate("ab"):
        ksa.enable(model, targets=by_pattern, name=adapter)
        shake(model, seed=seed)
    found = {site.path: str(site.layer.adapter().method) for site in adapted_sites(model)}
    assert found["first"] == "LoRA(rank=2)"
    assert found["first/bias"] == "BitFit()"
    assert found["ln/gamma"] == found["ln/beta"] == "LNTuning()"
    mixed = ksa.predict(model, x, IDS)
    for row, adapter in enumerate(IDS):
        ksa.set_adapter(model, adapter)
        np.testing.assert_allclose(
            mixed[row : row + 1], model.predict(x[row : row + 1], verbose=0), atol=1e-5
        )


@table
def test_merged_and_unmerged(name):
    model, x = build(), batch((4, 6, 8))
    ksa.enable(model, METHODS[name])
    shake(model)
    before, own = model.predict(x, verbose=0), build()
    ksa.merge(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    assert type(model.get_layer("first")) is L.Dense
    ksa.unmerge(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    ksa.delete_adapter(model, "default")
    for ours, theirs in zip(model.weights, own.weights, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


@table
def test_files(name, tmp_path):
    model, x = with_two(name), batch((4, 6, 8))
    expected = model.predict(x, verbose=0)
    ksa.save_adapter(model, tmp_path / "a.keras", name="b")
    loaded = build()
    ksa.load_adapter(loaded, tmp_path / "a.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    model.save(tmp_path / "whole.keras")
    whole = keras.models.load_model(tmp_path / "whole.keras")
    np.testing.assert_array_equal(whole.predict(x, verbose=0), expected)
    ksa.set_adapter(whole, None)
    np.testing.assert_array_equal(whole.predict(x, verbose=0), build().predict(x, verbose=0))
    other = build()
    other.get_layer("ln").beta.assign_add(np.ones(8))
    with pytest.raises(ValueError, match="has other values"):
        ksa.load_adapter(other, tmp_path / "a.keras")


@table
def test_combined(name):
    model, x = with_two(name), batch((4, 6, 8))
    ksa.combine(model, {"a": 0.5, "b": -1.0}, into="both")
    plain = build()
    own = {weight.path: weight for weight in plain.weights}
    for site in adapted_sites(model):
        a, b = (numpy(getattr(site.layer, f"adapter_{each}").shift) for each in "ab")
        weight = own[site.layer.kernel.path]
        weight.assign_add(np.reshape(0.5 * a - b, weight.shape))
    np.testing.assert_allclose(model.predict(x, verbose=0), plain.predict(x, verbose=0), atol=1e-6)


@table
def test_refused_with_a_reason(name, tmp_path):
    model, method = build(), METHODS[name]
    ksa.enable(model, method)
    with pytest.raises(ValueError, match="would change kernels"):
        ksa.to_lora(model, rank=1)
    with pytest.raises(ValueError, match="which is adapted"):
        ksa.enable(build(), method, train="beta" if name == "bitfit" else "gamma")
    bare = keras.Sequential([keras.Input((8,)), L.Dense(4, use_bias=False), L.Dense(2)])
    with pytest.raises(ValueError, match="No layer is left|no norms"):
        ksa.enable(bare, method)


def test_biases_of_integer_kernels():
    model, x = build(), batch((4, 6, 8))
    model.get_layer("first").quantize("int8")
    before = model.predict(x, verbose=0)
    ksa.enable(model, methods.BitFit())
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    shake(model)
    after = model.predict(x, verbose=0)
    assert np.abs(after - before).max() > 1e-3
    ksa.merge(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0), after)


def test_resumed_training_goes_on_bit_for_bit(tmp_path):
    x, y = batch((8, 6, 8)), np.arange(48).reshape(8, 6) % 3
    rows = []
    for broken in (False, True):
        model = build()
        ksa.enable(model, methods.BitFit(), train="head")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=loss)
        model.fit(x, y, 4, 1, 0, shuffle=False)
        if broken:
            model.save(tmp_path / "model.keras")
            model = keras.models.load_model(tmp_path / "model.keras")
        model.fit(x, y, 4, 2, 0, shuffle=False, initial_epoch=1)
        rows.append([numpy(weight) for weight in model.weights])
    for straight, resumed in zip(*rows, strict=True):
        np.testing.assert_array_equal(straight, resumed)


def test_layers_of_their_own():
    norm = L.LayerNormalization()
    norm.build((None, 8))
    layer = ksa.layers.LNTuningDense(norm)
    assert len(layer.trainable_weights) == 2
    shake(layer)
    model = keras.Sequential([keras.Input((8,)), layer])
    copy = keras.Sequential.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    x = batch((4, 8))
    np.testing.assert_array_equal(numpy(copy(x)), numpy(model(x)))
    with pytest.raises(ValueError, match="built Dense or other layer with a bias"):
        ksa.layers.BitFitDense(L.Dropout(0.1))
