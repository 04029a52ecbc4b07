"""Prompts with weights: their rows add up, and the table stays as its other adapters make it."""

import keras
import numpy as np
from cases import shake
from prompted import V, build, data, hub, language_model, several

import keras_svd_adapters as ksa
from keras_svd_adapters.methods import PromptTuning


def test_weights_of_prompts():
    model = several(language_model())
    x, _ = data()
    ksa.set_adapter(model, "three")
    expected = model.predict(x, verbose=0)
    ksa.set_adapter(model, {"three": 1.0, "cpt": 0.0})
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    table = model.backbone.token_embedding
    rows = {}
    for name in ("three", "cpt"):
        ksa.set_adapter(model, name)
        rows[name] = keras.ops.convert_to_numpy(table(np.arange(V, V + 3)))
    ksa.set_adapter(model, {"three": 0.5, "cpt": 2.0})
    found = keras.ops.convert_to_numpy(table(np.arange(V, V + 3)))
    np.testing.assert_allclose(found, 0.5 * rows["three"] + 2 * rows["cpt"], atol=1e-5)


def test_weights_of_a_prompt_and_of_its_table():
    """Gemma reads the table for its logits too."""
    model = hub.GemmaCausalLM(build("gemma"), preprocessor=None)
    ksa.enable(model, ksa.LoRA(rank=2), "token_embedding", name="table", tied=True)
    shake(model)
    ksa.enable(model, PromptTuning(length=3), name="prompt")
    shake(model)
    x, _ = data()
    ksa.set_adapter(model, "prompt")
    expected = model.predict(x, verbose=0)
    ksa.set_adapter(model, {"prompt": 1.0, "table": 0.0})
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    ksa.set_adapter(model, {"prompt": 1.0, "table": 1.0})
    assert np.abs(model.predict(x, verbose=0) - expected).max() > 1e-3
    table = model.backbone.token_embedding
    merged = np.array(keras.ops.convert_to_numpy(table.embeddings))
    ksa.set_adapter(model, "table")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(table.embeddings), merged)
