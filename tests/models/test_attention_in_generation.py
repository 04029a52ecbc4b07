"""Text generation with adapters of attention: the cache holds tokens alone."""

import numpy as np
import pytest
from attention_models import FAMILIES
from cases import numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters import methods

TASKS = {name: family for name, family in FAMILIES.items() if family.task is not None}
LENGTH = 12


def prompt(lengths=(3, 4)):
    """Two texts; Gemma3 also returns the images of its prompt, and there are none."""
    ids = np.random.default_rng(3).integers(1, 40, (2, LENGTH)).astype("int32")
    mask = np.arange(LENGTH) < np.array(lengths)[:, None]
    images = np.zeros((2, 0, 1, 1, 3), "float32")
    return {"token_ids": ids * mask, "padding_mask": mask.astype("int32"), "images": images}


def greedy(task, x):
    """The same texts; each token is computed from the whole text before it."""
    ids, mask = x["token_ids"].copy(), x["padding_mask"].copy()
    for place in range(mask.sum(axis=1).min(), LENGTH):
        logits = numpy(task.predict_on_batch({"token_ids": ids, "padding_mask": mask}))
        open_rows = mask[:, place] == 0
        ids[open_rows, place] = logits[open_rows, place - 1].argmax(axis=-1)
        mask[:, place] = 1
    return ids


@pytest.mark.parametrize("name", TASKS)
def test_generation_is_that_without_a_cache(name):
    task = TASKS[name].language_model()
    task.compile(sampler="greedy")
    plain = numpy(task.generate(prompt(), stop_token_ids=None)["token_ids"])
    backbone = task.backbone
    ksa.enable(backbone, methods.PrefixTuning(length=3, std=1.0), name="a")
    found = numpy(task.generate(prompt(), stop_token_ids=None)["token_ids"])
    np.testing.assert_array_equal(found, greedy(task, prompt()))
    assert (found != plain).any()
    if name == "llama":
        ksa.enable(backbone, methods.AdaptionPrompt(length=2), name="b")
        shake(backbone, 1.0)
        other = numpy(task.generate(prompt(), stop_token_ids=None)["token_ids"])
        np.testing.assert_array_equal(other, greedy(task, prompt()))
        mixed = ksa.generate(task, prompt(), ["b", "a"], stop_token_ids=None)["token_ids"]
        np.testing.assert_array_equal(numpy(mixed), [other[0], found[1]])
        assert (other != found).any()
        with ksa.disabled(task):
            last = numpy(task.generate(prompt(), stop_token_ids=None)["token_ids"])
        np.testing.assert_array_equal(last, plain)
