"""Text that models with prompts generate."""

import keras
import keras_hub
import numpy as np
import pytest
from prompted import NAMES, build, data, language_model, several

import keras_svd_adapters as ksa
from keras_svd_adapters.methods import PromptTuning


def generated(model, x, steps):
    """The most likely tokens, from whole passes through the model."""
    ids, mask = x["token_ids"].copy(), x["padding_mask"].copy()
    for place in range(ids.shape[1] - steps, ids.shape[1]):
        logits = model.predict({"token_ids": ids, "padding_mask": mask}, verbose=0)
        ids[:, place] = logits[:, place - 1].argmax(axis=-1)
        mask[:, place] = 1
    return ids


def test_it_generates():
    model = several(language_model())
    x, _ = data(len(NAMES))
    x["token_ids"][:, 5:], x["padding_mask"][:, 5:] = 0, 0
    model.compile(sampler="greedy")
    rows = {}
    for name in dict.fromkeys(NAMES):
        ksa.set_adapter(model, name)
        found = model.generate({k: v.copy() for k, v in x.items()}, stop_token_ids=None)
        np.testing.assert_array_equal(found["token_ids"], generated(model, x, 3))
        rows[name] = found["token_ids"]
    assert len({found.tobytes() for found in rows.values()}) > 2
    found = ksa.generate(model, {k: v.copy() for k, v in x.items()}, NAMES, stop_token_ids=None)
    for place, name in enumerate(NAMES):
        np.testing.assert_array_equal(found["token_ids"][place], rows[name][place])


def test_text_in_and_text_out():
    """With learned positions, tied logits and a tokenizer that knows no prompt."""
    words = {word: place for place, word in enumerate([*"abcdefgh", "ab", "<|endoftext|>"])}
    tokenizer = keras_hub.models.GPT2Tokenizer(words, ["a b"])
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=10)
    model = keras_hub.models.GPT2CausalLM(build("gpt2", vocabulary_size=10), preprocessor)
    model.compile(keras.optimizers.Adam(0.1), sampler="greedy")
    base = model.generate("abc", max_length=8, stop_token_ids=None)
    ksa.enable(model, PromptTuning(length=4))
    model.fit(["abcde", "bcdef"], epochs=1, verbose=0)
    assert model.generate("abc", max_length=8, stop_token_ids=None).startswith("abc")
    with ksa.disabled(model):
        assert model.generate("abc", max_length=8, stop_token_ids=None) == base
    preprocessor.sequence_length = 11
    if keras.backend.backend() != "tensorflow":  # whose graph does not know the length
        with pytest.raises(ValueError, match="sequence_length = 10"):
            model.fit(["abcde"], verbose=0)
    with pytest.raises(ValueError, match="positions for 14 tokens"):
        model.generate("abc", max_length=12)
