"""Labels for prompts by the likelihood of the labels, or by generated text."""

import keras
import numpy as np
import pytest
from stand_ins.gemma import gemma3

import keras_svd_adapters as ksa
from keras_svd_adapters.models.routing.classification import label_likelihoods, named_label

TEXTS, LABELS = ["How many?", "Is it true that it rains?"], [" number", " yes", " a word"]


@pytest.fixture(scope="module")
def task():
    model = gemma3()
    for name in ("one", "two"):
        ksa.enable(model, ksa.SVF(), name=name, verbose=0)
        rng = np.random.default_rng(len(name) + (name == "two"))
        for variable in model.trainable_variables:
            variable.assign(variable + rng.standard_normal(variable.shape))
    return model


def wanted(model):
    """The mean log probabilities from the model's own logits, in float64."""
    found = np.zeros((len(TEXTS), len(LABELS)))
    tokenizer, start = model.preprocessor.tokenizer, model.preprocessor.tokenizer.start_token_id
    for place in np.ndindex(found.shape):
        end = list(tokenizer(LABELS[place[1]]))
        row = [start, *tokenizer(TEXTS[place[0]]), *end]
        inputs = {
            "token_ids": np.array([row + [0] * (64 - len(row))]),
            "padding_mask": np.arange(64)[None] < len(row),
        }
        logits = keras.Model.predict_on_batch(model, inputs)[0].astype("float64")
        logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        first = len(row) - len(end)
        found[place] = np.mean([logs[first - 1 + i, token] for i, token in enumerate(end)])
    return found


@pytest.mark.parametrize("name", [None, "one"])
def test_the_likelihood_of_each_label(task, name):
    ksa.set_adapter(task, name)
    likelihoods = wanted(task)
    ksa.set_adapter(task, "two")
    found = label_likelihoods(task, TEXTS, LABELS, name, 64, 4)
    np.testing.assert_allclose(found, likelihoods, atol=1e-5)
    labels = ksa.classify(task, TEXTS, dict(zip("abc", LABELS, strict=True)), name=name)
    assert labels == ["abc"[place] for place in likelihoods.argmax(axis=1)]


def test_generated_text():
    labels = {"number": " number", "yes": " Yes", "other": " other"}
    assert named_label("Well, yes: a number.", labels, None) == "yes"
    assert named_label("NUMBER, not yes", labels, None) == "number"
    assert named_label("I do not know", labels, "other") == "other"


def test_labels_by_generated_text(task):
    labels = ksa.classify(
        task, TEXTS, ["a", "b"], name="two", how="generate", default="none", max_length=40
    )
    assert set(labels) <= {"a", "b", "none"}


REFUSED = {
    "an unknown name": ({"name": "tow"}, "no such adapter"),
    "one label": ({"labels": ["yes"]}, "two texts or more"),
    "an empty label": ({"labels": ["yes", " "]}, "two texts or more"),
    "no prompt": ({"prompts": []}, "list of texts"),
    "one text": ({"prompts": "How many?"}, "list of texts"),
    "a template without the prompt": ({"template": "Topic:"}, "must contain"),
    "another way": ({"how": "votes"}, "`how`"),
    "a long prompt": ({"max_length": 16}, "too many tokens"),
}


@pytest.mark.parametrize(("changed", "match"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(task, changed, match):
    with pytest.raises(ValueError, match=rf"(?s){match}.*Received: "):
        ksa.classify(task, **({"prompts": TEXTS, "labels": LABELS} | changed))


def test_models_that_are_refused(task):
    with pytest.raises(ValueError, match=r"needs? a tokenizer.*Received: "):
        ksa.classify(task.backbone, TEXTS, LABELS)
