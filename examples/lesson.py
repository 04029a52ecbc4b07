"""What the notebooks work on: MiniLM and movie sentences; a tiny stand-in where `SMALL` is set."""

from __future__ import annotations

import os

import classifier
import data
import keras
import keras_hub
import numpy as np

SMALL = bool(os.environ.get("SMALL"))
Sets = dict[str, tuple[dict[str, np.ndarray], np.ndarray]]


def encoder() -> keras_hub.models.BertBackbone:
    """all-MiniLM-L6-v2, 6 layers of width 384, with its own weights."""
    if not SMALL:
        return keras_hub.models.BertBackbone.from_preset(str(data.minilm_directory()))
    keras.utils.set_random_seed(0)
    return keras_hub.models.BertBackbone(
        vocabulary_size=50,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=classifier.LENGTH,
        dropout=0.0,
    )


def with_head(backbone: keras_hub.models.BertBackbone, name: str = "head") -> keras.Model:
    """The encoder, the mean over the tokens, and a fresh head for two classes."""
    mean = keras.layers.GlobalAveragePooling1D(name=f"mean_of_{name}")
    pooled = mean(backbone.output["sequence_output"], mask=backbone.input["padding_mask"])
    return keras.Model(backbone.input, keras.layers.Dense(2, name=name)(pooled))


def sentences(train: int, test: int) -> tuple[np.ndarray, Sets]:
    """Texts, and their tokens with 1 where the review is favourable, to train and to test."""
    train, test = (16, 8) if SMALL else (train, test)
    if SMALL:
        rng = np.random.default_rng(0)
        texts = np.array(["a film", "a good film"] * 12, dtype=object)
        labels = np.array([0, 1] * 12, dtype="int32")
        ids = rng.integers(1, 50, (24, classifier.LENGTH)).astype("int32")
        tokens = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": 0 * ids}
    else:
        texts, labels = data.movie_sentences()
        texts, labels = texts[: train + test], labels[: train + test]
        tokens = classifier.tokenize(data.minilm_directory(), texts)

    return texts, classifier.parts(tokens, labels, train=train, test=test)
