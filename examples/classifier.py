"""A sentence classifier on a pretrained encoder, shared by the examples."""

from __future__ import annotations

from pathlib import Path

import data
import keras
import keras_hub
import numpy as np

import keras_svd_adapters as ksa

LENGTH = 32


def build(directory: Path, outputs: int = 2) -> tuple[keras.Model, keras_hub.models.BertBackbone]:
    """MiniLM, mean pooling over the tokens, and a fresh head, for two classes by default."""
    backbone = keras_hub.models.BertBackbone.from_preset(str(directory))
    pooled = keras.layers.GlobalAveragePooling1D(name="mean")(
        backbone.output["sequence_output"], mask=backbone.input["padding_mask"]
    )
    logits = keras.layers.Dense(outputs, name="head")(pooled)
    return keras.Model(backbone.input, logits), backbone


def adapt(
    model: keras.Model,
    backbone: keras.Model,
    method: ksa.Method | str | None,
    verbose: int = 0,
) -> None:
    """Freezes the encoder and gives it the adapter of a run: a method, `"keras"` or none."""
    if method is None:
        backbone.trainable = False
    elif method == "keras":
        backbone.enable_lora(8)
    else:
        ksa.enable(model, method, train="head", verbose=verbose)


def compile_for(model: keras.Model, rate: float) -> None:
    """Adam at a rate, for two classes."""
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def trained_values(model: keras.Model) -> int:
    """How many values train."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def sentences(directory: Path, **sizes: int) -> dict[str, tuple]:
    """Token ids and labels of movie sentences, in parts of these names and sizes."""
    texts, labels = data.movie_sentences()
    return parts(tokenize(directory, texts[: sum(sizes.values())]), labels, **sizes)


def parts(tokens: dict[str, np.ndarray], labels: np.ndarray, **sizes: int) -> dict[str, tuple]:
    """Token ids and labels one after another, in parts of these names and sizes."""
    found, start = {}, 0
    for name, size in sizes.items():
        rows = slice(start, start + size)
        found[name] = {key: value[rows] for key, value in tokens.items()}, labels[rows]
        start += size
    return found


def tokenize(directory: Path, texts: np.ndarray) -> dict[str, np.ndarray]:
    """Texts as padded token ids."""
    vocabulary = (directory / "vocab.txt").read_text().splitlines()
    tokenizer = keras_hub.models.BertTokenizer(vocabulary, lowercase=True)
    packer = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=LENGTH)
    return {name: np.asarray(value) for name, value in packer(list(texts)).items()}
