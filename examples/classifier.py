"""A sentence classifier on a pretrained encoder, shared by the examples."""

from __future__ import annotations

from pathlib import Path

import keras
import keras_hub
import numpy as np

LENGTH = 32


def build(directory: Path) -> tuple[keras.Model, keras_hub.models.BertBackbone]:
    """MiniLM, mean pooling over the tokens, and a fresh head for two classes."""
    backbone = keras_hub.models.BertBackbone.from_preset(str(directory))
    pooled = keras.layers.GlobalAveragePooling1D(name="mean")(
        backbone.output["sequence_output"], mask=backbone.input["padding_mask"]
    )
    logits = keras.layers.Dense(2, name="head")(pooled)
    return keras.Model(backbone.input, logits), backbone


def tokenize(directory: Path, texts: np.ndarray) -> dict[str, np.ndarray]:
    """Texts as padded token ids."""
    vocabulary = (directory / "vocab.txt").read_text().splitlines()
    tokenizer = keras_hub.models.BertTokenizer(vocabulary, lowercase=True)
    packer = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=LENGTH)
    return {name: np.asarray(value) for name, value in packer(list(texts)).items()}
