"""What adapters of attention layers promise: switching, mixing, files, resuming and refusals."""

import keras
import models
import numpy as np
import pytest
from attention_models import build, with_two
from cases import batch, numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.models.sites.search import adapted_sites

PREFIX, ROWS = methods.PrefixTuning(length=3), methods.AdaptionPrompt(length=2)
HIDDEN = methods.PrefixTuning(length=3, hidden=5, seed=4)
table = pytest.mark.parametrize("method", [PREFIX, HIDDEN, ROWS], ids=str)
IDS = ["a", None, "b", "a"]


def outputs(model, x=None):
    return model.predict(batch((4, 6, 8)) if x is None else x, verbose=0)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
def test_the_start(dtype):
    model = build(dtype)
    before = outputs(model)
    report = ksa.enable(model, ROWS)
    assert report.trainable_parameters == 2 * (2 * 8 + 1)
    np.testing.assert_array_equal(outputs(model), before)
    shake(model)
    assert (outputs(model) != before).any()
    assert "away from the base" not in str(ksa.plan(build(), ROWS))
    plan = ksa.plan(build(), PREFIX)
    assert "away from the base" in str(plan)
    assert "away from the base" not in str(ksa.status(model))
    assert "away from the base" in str(ksa.enable(build(), PREFIX))
    assert plan.trainable_parameters == 2 * 3 * (8 + 8)
    assert [s.path for s in adapted_sites(model)] == ["attention_0", "attention_1"]


def test_switched_off_switched_and_mixed():
    model = with_two(PREFIX, ROWS)
    alone = {None: outputs(build())}
    with ksa.disabled(model):
        np.testing.assert_allclose(outputs(model), alone[None], atol=1e-6)
    for name in "ab":
        ksa.set_adapter(model, name)
        alone[name] = outputs(model)
    assert len({values.tobytes() for values in alone.values()}) == 3
    mixed = ksa.predict(model, batch((4, 6, 8)), IDS)
    expected = [alone[name][row] for row, name in enumerate(IDS)]
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    ksa.delete_adapter(model, "a")
    ksa.delete_adapter(model, "b")
    np.testing.assert_array_equal(outputs(model), alone[None])
    assert type(model.get_layer("attention_0")) is keras.layers.MultiHeadAttention


def test_weights_of_several():
    """The layer's output is linear in them; another sample may have others."""
    model = with_two(PREFIX, ROWS)
    layer, x = model.get_layer("attention_0"), batch((4, 6, 8))
    found = {}
    for name in (None, "a", "b"):
        ksa.set_adapter(model, name)
        found[name] = numpy(layer(x, x))
    a, b = found["a"] - found[None], found["b"] - found[None]
    ksa.set_adapter(model, {"a": 0.4, "b": -1.0})
    np.testing.assert_allclose(numpy(layer(x, x)), found[None] + 0.4 * a - b, atol=1e-5)
    ksa.set_adapter(model, {"a": 1.0, "b": 0.0})
    both = outputs(model)
    ksa.set_adapter(model, "a")
    np.testing.assert_array_equal(outputs(model), both)
    each = ksa.predict(model, x, adapter_weights={"a": [1.0, 0.0, 0.0, 1.0], "b": [0, 0, 1.0, 0]})
    np.testing.assert_allclose(each, ksa.predict(model, x, IDS), atol=1e-5)


def test_in_a_pool():
    model, x = with_two(ROWS, ksa.LoRA(rank=2)), batch((4, 6, 8))
    alone = {}
    for name in (None, "b", "a"):
        ksa.set_adapter(model, name)
        alone[name] = outputs(model)
    with ksa.AdapterPool(model, "a", slots=2) as pool:
        pool.add("one", model, adapter="a")
        mixed = ksa.predict(model, x, ["one", None, "one", None])
        half = ksa.predict(model, x, adapter_weights={"one": [0.5] * 4})
    expected = [alone[name][row] for row, name in enumerate(["a", None, "a", None])]
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    ksa.set_adapter(model, {"a": 0.5})
    np.testing.assert_allclose(half, outputs(model), atol=1e-5)


@table
def test_files(method, tmp_path):
    model = with_two(ROWS, method)
    expected = outputs(model)
    ksa.save_adapter(model, tmp_path / "b.keras", name="b")
    loaded = build()
    ksa.load_adapter(loaded, tmp_path / "b.keras")
    np.testing.assert_array_equal(outputs(loaded), expected)
    model.save(tmp_path / "whole.keras")
    whole = keras.models.load_model(tmp_path / "whole.keras")
    np.testing.assert_array_equal(outputs(whole), expected)
    ksa.set_adapter(model, "a")
    ksa.set_adapter(whole, "a")
    np.testing.assert_array_equal(outputs(whole), outputs(model))
    other = build()
    other.get_layer("attention_0").key_dense.kernel.assign_add(np.ones((8, 2, 4)))
    with pytest.raises(ValueError, match="has other values"):
        ksa.load_adapter(other, tmp_path / "b.keras")


@table
def test_resumed_training_goes_on_bit_for_bit(method, tmp_path):
    x, y = batch((8, 6, 8)), np.arange(48).reshape(8, 6) % 3
    rows = []
    for broken in (False, True):
        model = build()
        ksa.enable(model, method, train="head")
        for seed, (_, array) in enumerate(arrays(model)):
            array.assign(np.random.default_rng(seed).normal(size=array.shape))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=loss)
        model.fit(x, y, 4, 1, 0, shuffle=False)
        if broken:
            model.save(tmp_path / "model.keras")
            model = keras.models.load_model(tmp_path / "model.keras")
        start = [numpy(array) for _, array in arrays(model)]
        model.fit(x, y, 4, 2, 0, shuffle=False, initial_epoch=1)
        assert all((numpy(v) != s).any() for (_, v), s in zip(arrays(model), start, strict=True))
        rows.append([numpy(weight) for weight in model.weights])
    for straight, resumed in zip(*rows, strict=True):
        np.testing.assert_array_equal(straight, resumed)


def arrays(model):
    return [(w.path, w) for w in model.trainable_weights if not w.path.startswith("head")]


def test_the_hidden_layer_is_one_for_all_layers():
    model = build()
    ksa.enable(model, HIDDEN)
    counts = {path.split("/")[-1]: 0 for path, _ in arrays(model)}
    for path, _ in arrays(model):
        counts[path.split("/")[-1]] += 1
    tied = {"prompt": 1, "encoder": 1, "encoder_bias": 1}
    own = dict.fromkeys(("keys", "values", "keys_bias", "values_bias"), 2)
    assert counts == tied | own
    plan = ksa.plan(build(), HIDDEN)
    assert plan.trainable_parameters == ksa.status(model).trainable_parameters
    adapter = model.get_layer("attention_0").adapter_default
    v = {name: numpy(array) for name, array in adapter.arrays.items()}
    hidden = np.tanh(v["prompt"] @ v["encoder"] + v["encoder_bias"])
    found = {name: numpy(array) for name, array in adapter.prepared_arrays().items()}
    np.testing.assert_allclose(found["keys"], hidden @ v["keys"] + v["keys_bias"], atol=1e-6)
    np.testing.assert_allclose(found["values"], hidden @ v["values"], atol=1e-6)


@pytest.mark.parametrize("method", [PREFIX, ROWS], ids=str)
def test_on_integers_and_beside_lora(method):
    """The rows of an adaption prompt pass the frozen projections, whatever LoRA adds to these."""
    model, x = models.llama()
    model.quantize("int8")
    before = models.output(model(x))
    ksa.enable(model, targets={"*key": ksa.LoRA(rank=2), "*self_attention": method})
    if method == ROWS:
        np.testing.assert_array_equal(models.output(model(x)), before)
    shake(model)
    sites = adapted_sites(model)
    assert [site.kind for site in sites] == ["EinsumDense"] * 2 + ["LlamaAttention"] * 2
    after = models.output(model(x))
    assert np.abs(after - before).max() > 1e-3
    found = ksa.predict(model, x, ["default", None])
    np.testing.assert_allclose(found[0], after[0], atol=1e-4)
    np.testing.assert_allclose(found[1], before[1], atol=1e-4)
