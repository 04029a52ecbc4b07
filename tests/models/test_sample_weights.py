"""Other weights for each sample: the same as each sample alone with its own."""

import keras
import models
import numpy as np
import pytest
from cases import METHODS, shake
from mixed_batch import adapted, batch, small
from traces import watched

import keras_svd_adapters as ksa
from keras_svd_adapters import methods

WEIGHTS = {"a": [0.0, 1.0, 0.4, -1.0, 0.0], "b": [0.0, 0.0, 1.5, 0.5, 1.0]}


def alone(model, x, weights=WEIGHTS):
    """Each sample by itself with its weights."""
    rows = []
    for i, sample in enumerate(x):
        ksa.set_adapter(model, {name: column[i] for name, column in weights.items()})
        rows.append(model.predict(sample[None], verbose=0)[0])
    return np.stack(rows)


def check(model, x, batch_size=2):
    expected = alone(model, x)
    ksa.set_adapter(model, "a")
    paths = [weight.path for weight in model.weights]
    found = ksa.predict(model, x, batch_size=batch_size, adapter_weights=WEIGHTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)
    assert np.abs(np.diff(expected, axis=0)).max() > 0.05
    assert [weight.path for weight in model.weights] == paths


NAMES = ["lora", "svf", "dora", "ia3", "diff_pruning", "oft"]


@pytest.mark.parametrize("name", NAMES)
def test_each_sample_has_its_own(name):
    check(
        adapted(small(), METHODS[name].method, ksa.LoRA(rank=2), targets=["out", "square"]), batch()
    )


@pytest.mark.parametrize("mode", [None, "int8"])
def test_convolutions_embeddings_and_integers(mode):
    if mode:
        model = small()
        model.quantize(mode, filters="heads|square")
        return check(adapted(model, ksa.SVF(), targets=["heads", "square"]), batch())
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(11, 8, name="table")(inputs)
    x = keras.layers.Conv1D(5, 3, padding="same", name="slide")(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="up")(x))
    adapted(model, ksa.LoRA(rank=2), ksa.DoRA(rank=2), targets=["table", "slide", "up"])
    check(model, np.random.default_rng(3).integers(11, size=(5, 6)))
    return None


def test_other_weights_trace_nothing():
    model, traced = watched()
    adapted(model, ksa.LoRA(rank=2), targets="up")
    expected = [alone(model, batch()[:2], {"a": [0.4, w], "b": [1.0, 1.0]}) for w in (0.0, 1.0)]
    for w in (0.0, 1.0):
        found = ksa.predict(model, batch()[:2], adapter_weights={"a": [0.4, w], "b": 1.0})
        np.testing.assert_allclose(found, expected[int(w)], rtol=0, atol=2e-5)
        if keras.backend.backend() != "torch" and w:
            assert not traced
        traced.clear()


@pytest.mark.long("a language model is compiled for each backend")
def test_text_is_generated_with_weights_per_prompt():
    model = models.gemma(num_layers=1, num_key_value_heads=2)
    model.compile(sampler="greedy")
    adapted(model, ksa.LoRA(rank=2))
    tokens = np.random.default_rng(2).integers(1, 40, size=(2, 8)).astype("int32")
    mask = np.zeros_like(tokens)
    mask[:, :3] = 1
    prompts = {"token_ids": tokens, "padding_mask": mask}
    weights = {"a": [1.0, 0.5], "b": [0.0, 1.0]}
    found = ksa.generate(model, prompts, adapter_weights=weights, stop_token_ids=None)
    expected = []
    for i in range(2):
        ksa.set_adapter(model, {name: column[i] for name, column in weights.items()})
        prompt = {k: v[i : i + 1] for k, v in prompts.items()}
        expected.append(model.generate(prompt, stop_token_ids=None)["token_ids"][0])
    np.testing.assert_array_equal(found["token_ids"], expected)


def test_layers_that_read_their_kernel_are_refused():
    model = keras.Sequential([keras.Input((4, 6)), keras.layers.LSTM(5)])
    for name in "ab":
        ksa.enable(model, ksa.LoRA(rank=2), "kernel", name=name)
    x = np.ones((5, 4, 6), "float32")
    with pytest.raises(ValueError, match=r"(?s)One adapter per sample.*Received: "):
        ksa.predict(model, x, adapter_weights=WEIGHTS)
    model = adapted(small(), methods.BitFit())
    with pytest.raises(ValueError, match=r"(?s)One adapter per sample.*Received: "):
        ksa.predict(model, batch(), adapter_weights=WEIGHTS)


BAD = {
    "both": ({"adapter_ids": ["a"] * 5, "adapter_weights": WEIGHTS}, "not both"),
    "none": ({}, "`adapter_ids` has the name"),
    "nothing": ({"adapter_weights": {}}, "weights of each adapter"),
    "a list": ({"adapter_weights": [0.4] * 5}, "weights of each adapter"),
    "too few": ({"adapter_weights": {"a": [0.4]}}, "there are 5 samples"),
    "two lengths": ({"adapter_weights": {"a": [1.0] * 5, "b": [1.0] * 4}}, "lists of one length"),
    "not finite": ({"adapter_weights": {"a": [np.nan] * 5}}, "finite numbers"),
    "nested": ({"adapter_weights": {"a": [[1.0]] * 5}}, "finite numbers"),
    "unknown": ({"adapter_weights": {"aa": [1.0] * 5}}, "Did you mean 'a'"),
}


@pytest.mark.backend_free("messages are made of names")
@pytest.mark.parametrize(("how", "match"), BAD.values(), ids=BAD)
def test_bad_weights(how, match):
    model = adapted(small(), ksa.LoRA(rank=2), targets="*")
    shake(model)
    with pytest.raises(ValueError, match=f"(?s){match}.*Received: "):
        ksa.predict(model, batch(), **how)


def test_one_number_for_all_samples():
    model = adapted(small(), ksa.LoRA(rank=2), targets="*")
    ksa.set_adapter(model, {"a": 0.4, "b": 1.0})
    expected = model.predict(batch(), verbose=0)
    found = ksa.predict(model, batch(), adapter_weights={"a": 0.4, "b": 1.0})
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
