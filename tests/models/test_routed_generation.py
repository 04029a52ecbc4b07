"""Text with weights for each token: with caches, the same as whole sequences computed again."""

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import numpy
from mixed_batch import adapted

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.mode import in_mode

RNG = np.random.default_rng(2)
LENGTH = 7
DATA = {"a": RNG.integers(1, 20, (4, LENGTH)), "b": RNG.integers(20, 40, (4, LENGTH))}


def task():
    backbone, _ = models.llama(num_layers=1)
    model = keras_hub.models.LlamaCausalLM(backbone=backbone, preprocessor=None)
    model.compile(sampler="greedy")
    adapted(model, ksa.LoRA(rank=2), ksa.DoRA(rank=2), targets=["query", "*dense*"])
    ksa.set_adapter(model, None)
    return model


def inputs(*starts):
    """Prompts of other lengths, so that the shorter one generates over the end of its own."""
    tokens = np.random.default_rng(3).integers(1, 40, (len(starts), LENGTH)).astype("int32")
    mask = np.arange(LENGTH) < np.reshape(starts, (-1, 1))
    return {"token_ids": tokens * mask, "padding_mask": mask.astype("int32")}


def randomize(router):
    for seed, variable in enumerate(router.trainable_variables):
        rng = np.random.default_rng(seed)
        variable.assign_add(rng.normal(size=variable.shape).astype("float32"))
    return router


def data():
    return {name: {"token_ids": x, "padding_mask": np.ones_like(x)} for name, x in DATA.items()}


ROUTERS = {
    "x_lora": lambda model: randomize(ksa.XLoRA(model, ["a", "b"])),
    "mixing": lambda model: ksa.TokenMixing(model, data(), every=2),
    "mixing of a pass": lambda model: ksa.TokenMixing(model, data(), model.backbone),
    "am_lora": lambda model: randomize(ksa.AMLoRA(model, ["a", "b"])),
}


def whole(model, tokens):
    """Logits of whole sequences."""
    return numpy(model({"token_ids": tokens, "padding_mask": np.ones_like(tokens)}))


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_cache_changes_no_logits(kind):
    """One token at a time, over a cache that was filled with other tokens at later places."""
    model = task()
    router = ROUTERS[kind](model)
    tokens = np.random.default_rng(4).integers(1, 40, (2, LENGTH)).astype("int32")
    expected = whole(router, tokens)
    for name in (None, "a", "b"):
        ksa.set_adapter(model, name)
        assert np.abs(whole(model, tokens) - expected).max() > 0.01
    ksa.set_adapter(model, None)
    start = tokens * (np.arange(LENGTH) < 3)
    with in_mode(router.generation_mode()):
        _, cache = model._build_cache(keras.ops.convert_to_tensor(start))
        for place in range(2, LENGTH):
            one = keras.ops.convert_to_tensor(tokens[:, place : place + 1])
            index = keras.ops.convert_to_tensor(place)
            logits, _, cache = model.call_with_cache(one, cache, index)
            np.testing.assert_allclose(numpy(logits)[:, 0], expected[:, place], atol=1e-5)


@pytest.mark.parametrize("kind", ROUTERS)
def test_greedy_text_is_that_of_whole_sequences(kind):
    model = task()
    router = ROUTERS[kind](model)
    calls = []
    call = router.call_with_cache
    router.call_with_cache = lambda *a, **k: (calls.append(1), call(*a, **k))[1]
    prompts = inputs(3, 5)
    found = router.generate(prompts, stop_token_ids=None)["token_ids"]
    expected = prompts["token_ids"].copy()
    for place in range(3, LENGTH):
        best = whole(router, expected)[:, place - 1].argmax(axis=-1)
        expected[:, place] = np.where(prompts["padding_mask"][:, place], expected[:, place], best)
    np.testing.assert_array_equal(found, expected)
    calls.clear()
    router.generate(inputs(4, 4), stop_token_ids=None)
    assert keras.backend.backend() == "torch" or not calls, "traced again"


@pytest.mark.parametrize("sampler", ["greedy", "beam"])
def test_a_trained_classifier_is_an_input(sampler):
    """Other values trace nothing again, and the text is that of the chosen adapter."""
    model = task()
    model.compile(sampler=sampler)
    router = ksa.XLoRA(model, ["a", "b"])
    texts = []
    for place, name in enumerate("ab"):
        router.classifier.set_weights([np.zeros((16, 2)), 50.0 * np.eye(2)[place]])
        texts.append(router.generate(inputs(3, 3), stop_token_ids=None)["token_ids"])
        ksa.set_adapter(model, name)
        alone = model.generate(inputs(3, 3), stop_token_ids=None)["token_ids"]
        np.testing.assert_array_equal(texts[-1], alone)
    assert np.any(texts[0] != texts[1])


@pytest.mark.backend_free("messages are made of names")
def test_what_is_refused():
    model = task()
    other = keras.Model(model.backbone.input, model.backbone.output)
    with pytest.raises(ValueError, match=r"(?s)one new token at a time.*Received: "):
        ksa.XLoRA(model, ["a", "b"], other).generate(inputs(3))
    with pytest.raises(ValueError, match=r"(?s)reads `token_ids`.*Received: "):
        ksa.TokenMixing(model, DATA)
    router = ksa.AMLoRA(model.backbone, ["a", "b"])
    with pytest.raises(ValueError, match=r"(?s)Only a KerasHub task.*Received: "):
        router.generate(inputs(3))
