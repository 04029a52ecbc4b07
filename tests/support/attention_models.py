"""Tiny models whose attention layers carry adapters: one for each family, and one of Keras."""

from dataclasses import dataclass
from typing import Any

import keras
import keras_hub
import models
import numpy as np
from cases import shake
from keras_hub.src.utils.keras_utils import fused_attention_op_available

import keras_svd_adapters as ksa

L = keras.layers
hub = keras_hub.models
DECODER = {
    "vocabulary_size": models.TOKENS,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
}
HEADS = {
    "vocabulary_size": models.TOKENS,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
    "dropout": 0.0,
    "max_sequence_length": 24,
}
OF_QWEN = None if fused_attention_op_available() else 3  # the fused operation reads no window
WINDOW = {"use_sliding_window_attention": True, "sliding_window_size": 3}


@dataclass(frozen=True)
class Family:
    """A family of KerasHub.

    Args:
        backbone: Class of the backbone, and its arguments.
        size: Size of a head.
        cap: Bound of the scores, if there is one.
        window: How many tokens the first layer reads at most, if the layer itself limits them.
        task: Class of its language model, if it has one.
    """

    backbone: type
    options: dict[str, Any]
    size: int
    cap: float | None = None
    window: int | None = None
    task: type | None = None

    def build(self) -> keras.Model:
        return models.settle(self.backbone(**self.options))

    def language_model(self) -> keras.Model:
        return self.task(backbone=self.build(), preprocessor=None)


def gemma(**more):
    return DECODER | {"head_dim": 8} | more


FAMILIES = {
    "llama": Family(hub.LlamaBackbone, DECODER, 4, task=hub.LlamaCausalLM),
    "mistral": Family(
        hub.MistralBackbone, DECODER | {"sliding_window": 3}, 4, task=hub.MistralCausalLM
    ),
    "qwen": Family(hub.QwenBackbone, DECODER, 4, task=hub.QwenCausalLM),
    "qwen_window": Family(hub.QwenBackbone, DECODER | WINDOW, 4, window=OF_QWEN),
    "qwen3": Family(
        hub.Qwen3Backbone, gemma(sliding_window_size=3), 8, window=OF_QWEN, task=hub.Qwen3CausalLM
    ),
    "gemma": Family(hub.GemmaBackbone, gemma(), 8, task=hub.GemmaCausalLM),
    "gemma2": Family(
        hub.GemmaBackbone,
        gemma(attention_logit_soft_cap=2.0, **WINDOW),
        8,
        cap=2.0,
        window=3,
        task=hub.GemmaCausalLM,
    ),
    "gemma3": Family(
        hub.Gemma3Backbone,
        gemma(image_size=16, vision_encoder=None, **WINDOW),
        8,
        window=3,
        task=hub.Gemma3CausalLM,
    ),
    "gpt2": Family(hub.GPT2Backbone, HEADS, 8, task=hub.GPT2CausalLM),
    "bert": Family(hub.BertBackbone, HEADS, 8),
    "vit": Family(
        hub.ViTBackbone,
        {
            "image_shape": (16, 16, 3),
            "patch_size": 4,
            "num_layers": 2,
            "num_heads": 2,
            "hidden_dim": 16,
            "mlp_dim": 32,
        },
        8,
    ),
}


def inputs(name: str) -> Any:
    """Inputs of a backbone; the second text is padded."""
    if name == "vit":
        return np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype("float32")
    x = models.text()
    x["padding_mask"] = np.array([[1] * 8, [1] * 5 + [0] * 3], "int32")
    return x | ({"segment_ids": np.zeros((2, 8), "int32")} if name == "bert" else {})


def build(dtype="float32"):
    """A model with an attention layer of each kind that Keras has, in two blocks."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(dtype)
    inputs = keras.Input((6, 8))
    x = L.MultiHeadAttention(2, 4, name="attention_0")(inputs, inputs, use_causal_mask=True)
    x = L.LayerNormalization(name="ln")(x + inputs)
    x = L.GroupQueryAttention(4, 4, 2, name="attention_1")(x, x) + x
    model = keras.Model(inputs, L.Dense(3, name="head")(x))
    keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign_add(0.3 * rng.normal(size=weight.shape))
    return model


def with_two(first, second):
    """A model with the adapters `a` and `b`, moved away from their starts."""
    model = build()
    for seed, (name, method) in enumerate({"a": first, "b": second}.items()):
        ksa.enable(model, method, name=name)
        shake(model, 0.5, seed=seed)
    return model
