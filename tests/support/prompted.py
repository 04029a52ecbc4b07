"""Models that read text, and what they compute with a prompt, as a model with a larger table."""

import keras
import keras_hub
import models
import numpy as np
from cases import shake

import keras_svd_adapters as ksa
from keras_svd_adapters.methods import CPT, PromptTuning, PTuning

hub = keras_hub.models
V = models.TOKENS
DECODER = {
    "vocabulary_size": V,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
}
GEMMA = {**DECODER, "head_dim": 4}
ENCODER = {
    "vocabulary_size": V,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "max_sequence_length": 14,
    "dropout": 0.0,
}
FAMILIES = {
    "llama": (hub.LlamaBackbone, DECODER),
    "gemma": (hub.GemmaBackbone, GEMMA),
    "gemma3": (
        hub.Gemma3Backbone,
        {**GEMMA, "image_size": 16, "vision_encoder": None, "sliding_window_size": 4},
    ),
    "mistral": (hub.MistralBackbone, {**DECODER, "sliding_window": 4}),
    "qwen": (hub.QwenBackbone, DECODER),
    "qwen3": (hub.Qwen3Backbone, {**DECODER, "head_dim": 4}),
    "gpt2": (hub.GPT2Backbone, ENCODER),
    "bert": (hub.BertBackbone, ENCODER),
    "roberta": (hub.RobertaBackbone, ENCODER),
    "distil_bert": (hub.DistilBertBackbone, ENCODER),
}


def build(family, **changes):
    """A tiny backbone of a family."""
    kind, arguments = FAMILIES[family]
    return models.settle(kind(**{**arguments, **changes}))


def texts(backbone):
    """Inputs for a backbone, the second text shorter."""
    found = models.text()
    found["padding_mask"][1, 6:] = 0
    if "segment_ids" in backbone.input:
        found["segment_ids"] = np.where(np.arange(8) > 3, np.ones((2, 8), "int32"), 0)
    return found


def with_rows(family, backbone, prompt):
    """A backbone with the weights of another one and a larger table, without any adapter."""
    larger = build(family, vocabulary_size=V + len(prompt))
    for new, old in zip(larger.weights, backbone.weights, strict=True):
        value = keras.ops.convert_to_numpy(old)
        if new.shape != old.shape:
            value = (
                np.concatenate([value, prompt])
                if value.shape[0] == V
                else np.pad(value, [(0, 0), (0, len(prompt))])
            )
        new.assign(value)
    return larger


def inserted(x, length, after):
    """Inputs with the ids of a prompt."""
    values = {"token_ids": V + np.arange(length), "padding_mask": 1, "segment_ids": 0}
    blocks = {name: np.broadcast_to(values[name], (len(text), length)) for name, text in x.items()}
    return {
        name: np.concatenate([text[:, :after], blocks[name], text[:, after:]], 1).astype("int32")
        for name, text in x.items()
    }


def outputs(y):
    """All outputs of a backbone, by name."""
    y = y if isinstance(y, dict) else {"sequence_output": y}
    return {name: keras.ops.convert_to_numpy(part) for name, part in y.items()}


def language_model(**changes):
    """A Llama with an output head, without a preprocessor."""
    return hub.LlamaCausalLM(build("llama", **changes), preprocessor=None)


def data(count=4):
    """Texts, and the next token of each."""
    rng = np.random.default_rng(7)
    ids = rng.integers(1, V, (count, 8)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}, np.roll(ids, -1, axis=1)


def several(model):
    """A model with prompts of several lengths and places, and a LoRA."""
    ksa.enable(model, PromptTuning(length=3), name="three")
    ksa.enable(model, PTuning(length=2, hidden=4, after=1), name="two")
    ksa.enable(model, CPT([4, 5, 6]), name="cpt")
    ksa.enable(model, ksa.LoRA(rank=2), "query", name="lora")
    shake(model)
    return model


NAMES = ["three", None, "two", "lora", "cpt", "three"]
