"""A tiny encoder and random tokens, instead of MiniLM and movie sentences."""

import keras
import keras_hub
import numpy as np


def encoder(**settings):
    keras.utils.set_random_seed(0)
    return keras_hub.models.BertBackbone(
        vocabulary_size=50,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=8,
        **{"dropout": 0.0, **settings},
    )


def sentences(train, test):
    ids = np.random.default_rng(0).integers(1, 50, (24, 8)).astype("int32")
    tokens = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": 0 * ids}
    labels = np.array([0, 1] * 12, "int32")
    parts = slice(0, 16), slice(16, 24)
    sets = [({name: value[part] for name, value in tokens.items()}, labels[part]) for part in parts]
    return ["a film", "a good film"] * 12, *sets
