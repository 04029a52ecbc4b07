"""LongLoRA's attention: groups of tokens in training, all tokens afterwards."""

import keras
import numpy as np
import pytest
from attention_models import FAMILIES, inputs
from cases import batch, numpy

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.layers.grouped_attention import grouped_attention

L = keras.layers
GROUPS = 2


def softmax_attention(q, k, v, mask):
    scores = np.einsum("bqhd,bkhd->bhqk", q, k)
    powers = np.where(mask, np.exp(scores), 0.0)
    return np.einsum("bhqk,bkhd->bqhd", powers / powers.sum(axis=-1, keepdims=True), v)


def of_one_group(length, groups, shift):
    """Which tokens are in one group, if groups start at a token and wrap around the end."""
    size = length // groups
    group = (np.arange(length) - shift) % length // size
    return group[:, None] == group[None]


def test_groups_are_a_mask_for_each_head():
    length, heads, groups = 12, 4, 3
    q, k, v = (batch((2, length, heads, 5), seed=seed) for seed in range(3))
    causal = np.tril(np.ones((length, length), bool))
    own = np.repeat(causal[None], 2, axis=0)
    own[1, :, 9] &= np.arange(length) == 9  # another mask for the second text
    of_head = [of_one_group(length, groups, shift) for shift in (0, 0, 2, 2)]
    assert of_head[2][11, 0]  # the last token and the first one
    expected = softmax_attention(q, k, v, own[:, None] & np.stack(of_head))

    def compute(arguments):
        q, k, v, mask = map(numpy, arguments)
        assert q.shape[:2] == (2 * groups, length // groups)
        y = softmax_attention(q, k, v, mask[:, None].astype(bool))
        return keras.ops.convert_to_tensor(y)

    given = [keras.ops.convert_to_tensor(x) for x in (q, k, v, own)]
    found = numpy(grouped_attention(given, groups, compute))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma", "gpt2", "bert"])
def test_in_training_alone(name):
    """And with the mask of the model: no token reads a later one."""
    family, x = FAMILIES[name], inputs(name)
    x["padding_mask"] = np.ones_like(x["padding_mask"])
    model = family.build()
    before = numpy(keras.tree.flatten(model(x))[-1])
    ksa.enable(model, methods.ShiftedAttention(GROUPS), name="groups")
    np.testing.assert_allclose(numpy(keras.tree.flatten(model(x))[-1]), before, atol=1e-6)
    trained = numpy(keras.tree.flatten(model(x, training=True))[-1])
    assert np.abs(trained - before).max() > 1e-3
    if name != "bert":
        other = {**x, "token_ids": x["token_ids"].copy()}
        other["token_ids"][:, -1] = 7
        after = numpy(keras.tree.flatten(model(other, training=True))[-1])
        np.testing.assert_allclose(after[:, :-1], trained[:, :-1], atol=1e-5)


def build():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 6))
    x = L.MultiHeadAttention(2, 4, name="attention")(inputs, inputs, use_causal_mask=True)
    return keras.Model(inputs, L.Dense(3, name="head")(L.LayerNormalization(name="ln")(x)))


def test_with_lora_norms_and_embeddings(tmp_path):
    """As LongLoRA does; then the groups leave, and LoRA merges."""
    x, y = batch((4, 8, 6)), batch((4, 8, 3), seed=4)
    model = build()
    ksa.enable(model, methods.ShiftedAttention(GROUPS), name="groups")
    ksa.enable(model, ksa.LoRA(rank=2), targets=["query", "value"], train="ln")
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(x, y, epochs=2, verbose=0)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "m.keras")
    whole = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(whole.predict(x, verbose=0), expected)
    np.testing.assert_allclose(whole.evaluate(x, y, verbose=0), np.mean((expected - y) ** 2), 1e-4)
    ksa.save_adapter(model, tmp_path / "groups.keras", name="groups")
    loaded = build()
    ksa.load_adapter(loaded, tmp_path / "groups.keras")
    assert loaded.get_layer("attention").active_adapter == "default"
    ksa.delete_adapter(model, "groups")
    ksa.merge(model)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    assert numpy(whole(x, training=True)).shape == expected.shape


@pytest.mark.parametrize("heads", [1, 2])
def test_masks_with_an_axis_of_heads(heads):
    keras.utils.set_random_seed(0)
    x, causal = batch((3, 8, 6)), np.tril(np.ones((3, 8, 8), bool))
    layer = L.MultiHeadAttention(2, 4, name="attention")
    given, mask = keras.Input((8, 6)), keras.Input((None, 8, 8), dtype="bool")
    model = keras.Model([given, mask], layer(given, given, attention_mask=mask))
    ksa.enable(model, methods.ShiftedAttention(GROUPS))
    of_heads = causal[:, None].repeat(heads, axis=1)
    if heads > 1:
        with pytest.raises(ValueError, match=r"(?s)one mask for all heads.*\(3, 2, 8, 8\)"):
            model([x, of_heads], training=True)
        return
    found = numpy(model([x, of_heads], training=True))
    expected = numpy(layer(x, x, attention_mask=causal, training=True))
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - numpy(model([x, of_heads]))).max() > 1e-3


def test_lengths_that_do_not_fit():
    model = build()
    ksa.enable(model, methods.ShiftedAttention(3))
    with pytest.raises(ValueError, match="(?s)multiple of 6.*Received: 8 queries and 8 keys"):
        model(batch((2, 8, 6)), training=True)
    assert model(batch((2, 8, 6))).shape == (2, 8, 3)
