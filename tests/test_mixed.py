"""One adapter per sample: the same as each sample alone with its own."""

import keras
import keras_hub
import numpy as np
import pytest
from cases import METHODS, shake

import keras_svd_adapters as ksa

IDS = ["a", None, "b", "a", "b"]


def small():
    inputs = keras.Input((6, 10))
    x = keras.layers.EinsumDense("btd,dhe->bthe", (None, 3, 4), bias_axes="he", name="heads")(
        inputs
    )
    x = keras.layers.Activation("gelu")(x)
    x = keras.layers.EinsumDense("bthe,hed->btd", (None, 16), name="out")(x)
    x = keras.layers.Dense(16, activation="gelu", name="square")(x)
    return keras.Model(inputs, keras.layers.Dense(7, name="head")(x))


def adapted(model, one, other=None, **targets):
    """The model with adapters `a` and `b` of other values each."""
    for seed, (name, method) in enumerate((("a", one), ("b", other or one))):
        ksa.enable(model, method, name=name, **targets)
        rng = np.random.default_rng(seed)
        for weight in model.trainable_weights:
            weight.assign_add(0.2 * rng.normal(size=weight.shape))
    return model


def batch():
    return np.random.default_rng(3).normal(size=(len(IDS), 6, 10)).astype("float32")


def alone(model, x, ids):
    """Each sample by itself with its adapter."""
    rows = []
    for sample, name in zip(x, ids, strict=True):
        ksa.set_adapter(model, name)
        rows.append(model.predict(sample[None], verbose=0)[0])
    return np.stack(rows)


def check(model, ids=IDS, batch_size=2):
    x = batch()[: len(ids)]
    expected = alone(model, x, ids)
    assert np.abs(expected - alone(model, x, [None] * len(ids))).max() > 0.05
    found = ksa.predict(model, x, ids, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    return found


CASES = {name: case.method for name, case in METHODS.items() if name not in ("token_rows",)}


@pytest.mark.parametrize("name", [name for name in CASES if not METHODS[name].square_only])
def test_each_sample_has_its_own(name):
    method = CASES[name]
    check(adapted(small(), method, targets=["heads", "out", "square"]))


def test_methods_ranks_and_layers_may_differ():
    model = small()
    ksa.enable(model, ksa.LoRA(rank=2), name="a", targets=["heads", "square"])
    shake(model)
    ksa.enable(model, ksa.SVFT(pattern="banded", d=1), name="b", targets=["out", "square"])
    shake(model)
    ksa.enable(model, ksa.LoRA(rank=4), name="c", targets="*")
    shake(model)
    before = ksa.status(model).adapters
    check(model, ["c", "b", "a", None, "b"], batch_size=5)
    ksa.set_adapter(model, "c")
    assert ksa.status(model).adapters == before


def test_nothing_of_it_stays():
    model = adapted(small(), ksa.LoRA(rank=2), targets="*")
    x = batch()
    names = [w.path for w in model.weights]
    before = model.predict(x, verbose=0)
    ksa.predict(model, x, IDS)
    assert [w.path for w in model.weights] == names
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    ksa.predict(model, x, IDS)


def test_other_ids_need_no_other_trace():
    traced = []

    class Watch(keras.layers.Layer):
        def call(self, x):
            traced.append(1)
            return x

    model = keras.Sequential([keras.Input((6, 10)), Watch(), keras.layers.Dense(4, name="up")])
    adapted(model, ksa.LoRA(rank=2), targets="up")
    x = batch()[:2]
    model.compile(run_eagerly=False)
    expected = {ids: alone(model, x, ids) for ids in (("a", "b"), ("b", "a"))}
    ksa.predict(model, x, ["a", "b"])
    traced.clear()
    for ids in (("b", "a"), ("a", "b"), ("b", "a")):
        np.testing.assert_allclose(ksa.predict(model, x, ids), expected[ids], rtol=0, atol=2e-5)
    if keras.backend.backend() != "torch":
        assert not traced


def test_convolutions_and_embeddings():
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(11, 8, name="table")(inputs)
    x = keras.layers.Conv1D(5, 3, padding="same", name="slide")(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="up")(x))
    adapted(model, ksa.LoRA(rank=2), targets=["table", "slide", "up"])
    x = np.random.default_rng(3).integers(11, size=(5, 6))
    expected = alone(model, x, IDS)
    found = ksa.predict(model, x, IDS, batch_size=3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_several_inputs_and_outputs():
    one, two = keras.Input((4,), name="one"), keras.Input((6,), name="two")
    up, down = keras.layers.Dense(5, name="up")(one), keras.layers.Dense(3, name="down")(two)
    model = keras.Model({"one": one, "two": two}, {"up": up, "down": down})
    adapted(model, ksa.SVF(), targets=["up", "down"])
    rng = np.random.default_rng(3)
    x = {"one": rng.normal(size=(5, 4)), "two": rng.normal(size=(5, 6))}
    found = ksa.predict(model, x, IDS, batch_size=2)
    for i, name in enumerate(IDS):
        ksa.set_adapter(model, name)
        expected = model.predict({k: v[i : i + 1] for k, v in x.items()}, verbose=0)
        for key in expected:
            np.testing.assert_allclose(found[key][i], expected[key][0], rtol=0, atol=2e-5)


def language_model(sampler="greedy"):
    backbone = keras_hub.models.GemmaBackbone(
        vocabulary_size=40,
        num_layers=1,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=16,
        intermediate_dim=24,
        head_dim=8,
    )
    model = keras_hub.models.GemmaCausalLM(backbone=backbone, preprocessor=None)
    model.compile(sampler=sampler)
    return model


GENERATED = {
    "greedy": ("greedy", ksa.LoRA(rank=2)),
    "beam": (keras_hub.samplers.BeamSampler(num_beams=3), ksa.SVFT(pattern="banded", d=1)),
}


@pytest.mark.parametrize(("sampler", "method"), GENERATED.values(), ids=GENERATED)
def test_text_is_generated_with_one_per_prompt(sampler, method):
    model = adapted(language_model(sampler), method)
    tokens = np.random.default_rng(2).integers(1, 40, size=(2, 8)).astype("int32")
    mask = np.zeros_like(tokens)
    mask[:, :3] = 1
    prompts = {"token_ids": tokens, "padding_mask": mask}
    ids = ["a", "b"]
    found = ksa.generate(model, prompts, ids, stop_token_ids=None)
    expected = []
    for i, name in enumerate(ids):
        ksa.set_adapter(model, name)
        prompt = {k: v[i : i + 1] for k, v in prompts.items()}
        expected.append(model.generate(prompt, stop_token_ids=None)["token_ids"][0])
    np.testing.assert_array_equal(found["token_ids"], expected)
    assert not np.array_equal(expected[0][3:], expected[1][3:])


def test_what_cannot_be_mixed():
    model = adapted(small(), ksa.SVF(), targets="*")
    x = batch()
    weights = [w.path for w in model.weights]
    for ids, match in (
        (["a", "b"], "there are 5 samples"),
        ("a", "for each sample"),
        (["a", "b", "c", "a", "b"], "no such adapter"),
        (["a", "b", 3, "a", "b"], "Received"),
    ):
        with pytest.raises(ValueError, match=match):
            ksa.predict(model, x, ids)
    with pytest.raises(ValueError, match="positive"):
        ksa.predict(model, x, IDS, batch_size=0)
    with pytest.raises(ValueError, match="no adapter"):
        ksa.predict(small(), x, IDS)
    assert [w.path for w in model.weights] == weights


def test_a_layer_that_reads_its_kernel_is_refused():
    model = keras.Sequential([keras.Input((6, 10)), keras.layers.LSTM(4, name="cell")])
    adapted(model, ksa.LoRA(rank=2), targets="cell")
    before = model.predict(batch(), verbose=0)
    with pytest.raises(ValueError, match="reads its kernel"):
        ksa.predict(model, batch(), IDS)
    np.testing.assert_array_equal(model.predict(batch(), verbose=0), before)
