"""Prompts in whole models: what they compute, learn, save, generate and refuse."""

import keras
import models
import numpy as np
import pytest
from cases import combinations, numpy, shake
from prompted import (
    FAMILIES,
    NAMES,
    V,
    build,
    data,
    inserted,
    language_model,
    outputs,
    several,
    texts,
    with_rows,
)
from snapshots import bits, refused

import keras_svd_adapters as ksa
from keras_svd_adapters.methods import CPT, PromptTuning, PTuning
from keras_svd_adapters.models.sites.search import adapted_sites

METHODS = {
    "prompt_tuning": PromptTuning(length=3),
    "p_tuning": PTuning(length=3, hidden=5),
    "cpt": CPT([4, 9, 2]),
}


def prompt_of(model):
    (site,) = adapted_sites(model)
    return keras.ops.convert_to_numpy(site.layer(np.arange(V, V + 3)))


@pytest.mark.parametrize(
    ("name", "family"), [*combinations(METHODS, FAMILIES), ("prompt_tuning", "gpt2")]
)
def test_a_larger_table_computes_the_same(name, family):
    backbone = build(family)
    x = texts(backbone)
    base = outputs(backbone(x))
    ksa.enable(backbone, METHODS[name])
    shake(backbone)
    found = outputs(backbone(x))
    after = int("bert" in family and "roberta" not in family)
    larger = with_rows(family, build(family), prompt_of(backbone))
    expected = outputs(larger(inserted(x, 3, after)))
    for key, value in expected.items():
        if value.ndim > 2:
            value = np.concatenate([value[:, :after], value[:, after + 3 :]], axis=1)
        np.testing.assert_allclose(found[key], value, atol=1e-5)
        assert np.abs(found[key] - base[key]).max() > 1e-2
    with ksa.disabled(backbone):
        plain = outputs(backbone(x))
    assert all((plain[key] == base[key]).all() for key in base)


def compiled(model, rate=3e-2):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    return model


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_and_comes_back(name, tmp_path):
    """From an adapter file, and from a whole model."""
    model = language_model()
    x, y = data()
    base = {"weights": bits(model), "logits": model.predict(x, verbose=0)}
    ksa.enable(model, METHODS[name])
    compiled(model)
    losses = model.fit(x, y, epochs=4, batch_size=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    found = model.predict(x, verbose=0)
    assert {path: bits(model)[path] for path in base["weights"]} == base["weights"]
    ksa.save_adapter(model, tmp_path / "prompt.keras")
    fresh = language_model()
    ksa.load_adapter(fresh, tmp_path / "prompt.keras")
    np.testing.assert_array_equal(fresh.predict(x, verbose=0), found)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), found)
    ksa.set_adapter(model, None)
    np.testing.assert_array_equal(model.predict(x, verbose=0), base["logits"])
    ksa.delete_adapter(model, "default")
    np.testing.assert_array_equal(model.predict(x, verbose=0), base["logits"])
    assert bits(model) == base["weights"]


@pytest.mark.parametrize("name", METHODS)
def test_it_goes_on_to_learn(name, tmp_path):
    """As if it was never saved; Keras does not compile a task of KerasHub again."""
    model, x = small_classifier(), models.text()["token_ids"]
    ksa.enable(model, METHODS[name])
    model.compile(keras.optimizers.Adam(3e-2), "mse")
    model.fit(x, np.ones((2, 3)), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    for each in (model, again):
        each.fit(x, np.ones((2, 3)), verbose=0)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_each_sample_has_its_prompt():
    model = several(language_model())
    x, _ = data(len(NAMES))
    found = ksa.predict(model, x, NAMES, batch_size=4)
    same = ksa.predict(model, x, ["three", "cpt"] * 3)  # prompts of one length
    for place, name in enumerate(NAMES):
        ksa.set_adapter(model, name)
        alone = model.predict(x, verbose=0)
        np.testing.assert_allclose(found[place], alone[place], atol=1e-5)
        if name == ["three", "cpt"][place % 2]:
            np.testing.assert_allclose(same[place], alone[place], atol=1e-5)


def test_a_model_of_ones_own():
    """Whose outputs have no place for each token, or whose layers are those of a backbone."""
    functional, _, inputs = models.classifier()
    for model, x in ((functional, inputs), (small_classifier(), models.text()["token_ids"])):
        base = model.predict(x, verbose=0)
        ksa.enable(model, PromptTuning(length=3))
        assert np.abs(model.predict(x, verbose=0) - base).max() > 1e-5
        with ksa.disabled(model):
            np.testing.assert_array_equal(model.predict(x, verbose=0), base)


def small_classifier():
    table, mean = keras.layers.Embedding(V, 4), keras.layers.GlobalAveragePooling1D()
    inputs = keras.Input((None,), dtype="int32")
    return keras.Sequential([inputs, table, mean, keras.layers.Dense(3)])


def test_a_sequential_model_reads_one_prompt():
    """Keras runs it by a functional model inside."""
    model, x = small_classifier(), models.text()["token_ids"]
    ksa.enable(model, PromptTuning(length=3))
    table, *others = model.layers
    y = table(np.concatenate([np.broadcast_to(V + np.arange(3), (2, 3)), x], axis=1))
    for layer in others:
        y = layer(y)
    np.testing.assert_allclose(model.predict(x, verbose=0), numpy(y), atol=1e-6)


def test_a_prompt_beside_kernels(tmp_path):
    model = language_model()
    x, y = data()
    targets = {"token_embedding": PromptTuning(length=3), "query": ksa.LoRA(rank=2)}
    status = ksa.enable(model, targets=targets)
    assert status.trainable_parameters == 3 * 16 + 2 * 2 * (16 + 16)
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    compiled(model).fit(x, y, epochs=2, batch_size=4, verbose=0)
    for weight, value in zip(model.trainable_weights, before, strict=True):
        assert np.abs(weight.numpy() - value).max() > 1e-4
    found = model.predict(x, verbose=0)
    ksa.save_adapter(model, tmp_path / "both.keras")
    fresh = language_model()
    ksa.load_adapter(fresh, tmp_path / "both.keras")
    np.testing.assert_array_equal(fresh.predict(x, verbose=0), found)
    with pytest.raises(ValueError, match="PEFT has a prompt only alone"):
        ksa.export_peft(model, tmp_path / "peft")


REASON = "its prompt stands before each text"
VERBS = {
    "merge": lambda model: ksa.merge(model),
    "to_lora": lambda model: ksa.to_lora(model, "three", "c"),
    "combine": lambda model: ksa.combine(model, {"three": 0.5, "cpt": 0.5}, "c"),
    "similarity": lambda model: ksa.similarity(model),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_what_needs_a_change_of_the_table(verb):
    model = several(language_model())
    ksa.set_adapter(model, "three")
    with refused(model, REASON):
        verb(model)


def quantized():
    model = language_model()
    model.quantize("int8")
    return model


REFUSED = {
    "images": (lambda: models.vit()[0], "no table in which it looks up tokens"),
    "a fixed length": (
        lambda: keras.Sequential([keras.Input((5,), dtype="int32"), keras.layers.Embedding(9, 4)]),
        "`token_ids` of any length",
    ),
    "a quantized table": (quantized, "it is quantized"),
    "few positions": (lambda: build("bert", max_sequence_length=3), "positions for 3 tokens"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_models_without_place_for_a_prompt(make, words):
    model = make()
    with refused(model, words):
        ksa.enable(model, PromptTuning(length=3))


def test_texts_without_place_for_a_prompt():
    backbone = build("bert", max_sequence_length=10)
    ksa.enable(backbone, PromptTuning(length=3))
    with pytest.raises(ValueError, match="cut texts to 7 tokens.*Received: texts of 8 tokens"):
        backbone(texts(backbone))


def test_reports_say_what_a_prompt_does():
    model = language_model()
    plan = ksa.plan(model, PromptTuning(length=3))
    assert plan.trainable_parameters == 48
    assert "PromptTuning(length=3): starts away from the base model on purpose" in str(plan)
    status = str(ksa.enable(model, PromptTuning(length=3)))
    assert "An active method starts away from the base model on purpose" in status
    assert "merge" not in status
    ksa.set_adapter(model, None)
    assert "away" not in str(ksa.status(model))
