"""Tiny instances of KerasHub backbones, and inputs for them."""

import keras
import keras_hub
import numpy as np

TOKENS = 40


def bert(dtype="float32", num_layers=2):
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=TOKENS,
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=12,
        dropout=0.0,
        dtype=dtype,
    )
    return settle(backbone), text() | {"segment_ids": np.zeros((2, 8), dtype="int32")}


def llama(dtype="float32", num_layers=2):
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=TOKENS,
        num_layers=num_layers,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=16,
        intermediate_dim=24,
        dtype=dtype,
    )
    return settle(backbone), text()


def gemma3(dtype="float32", num_layers=2):
    # Not smaller: XLA fuses matmuls of a few numbers with what follows, and rounds otherwise.
    backbone = keras_hub.models.Gemma3Backbone(
        vocabulary_size=TOKENS,
        image_size=16,
        num_layers=num_layers,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=64,
        intermediate_dim=96,
        head_dim=16,
        sliding_window_size=8,
        vision_encoder=None,
        dtype=dtype,
    )
    return settle(backbone), text()


def gemma(num_layers, num_key_value_heads):
    """A language model without a preprocessor."""
    backbone = keras_hub.models.GemmaBackbone(
        vocabulary_size=TOKENS,
        num_layers=num_layers,
        num_query_heads=4,
        num_key_value_heads=num_key_value_heads,
        hidden_dim=16,
        intermediate_dim=24,
        head_dim=8,
    )
    return keras_hub.models.GemmaCausalLM(backbone=backbone, preprocessor=None)


def vit(dtype="float32", num_layers=2):
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=4,
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        dtype=dtype,
    )
    return settle(backbone), np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype("float32")


FAMILIES = {"bert": bert, "llama": llama, "gemma3": gemma3, "vit": vit}


def text():
    ids = np.random.default_rng(0).integers(1, TOKENS, (2, 8)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}


def settle(model):
    """Gives a model weights that are the same on every backend, with a wide spectrum."""
    rng = np.random.default_rng(2)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(size=weight.shape) * 0.3)
    return model


def output(y):
    y = y["sequence_output"] if isinstance(y, dict) else y
    return keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))


def classifier(dtype="float32", num_layers=2):
    """A functional model around a backbone, with a head."""
    backbone, x = bert(dtype, num_layers)
    pooled = keras.ops.mean(backbone.output["sequence_output"], axis=1)
    logits = keras.layers.Dense(3, name="head", dtype="float32")(pooled)
    return keras.Model(backbone.input, logits), backbone, x
