"""Tasks of the learning study: pretrained models and data that install from PyPI."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))

import classifier
import data
import learning_images

Part = tuple[Any, Any]
Sets = dict[str, Part]


@dataclass(frozen=True)
class Task:
    """A pretrained model, its data and the score that counts.

    Args:
        what: What the model learns, in a few words.
        score: Name of the score. A higher one is better.
        steps: Steps of training.
        batch: Samples of a step.
        head_rate: Learning rate of the head, the same for all methods.
        build: Returns the model, and its part that is adapted.
        sets: Returns the data to train, to choose the rate and to report.
        measure: Returns the score of a model on a part of the data.
        loss: Loss of training.
        seeds: Seeds at the best rate. The first one chooses the rate.
        has_peer: Whether HF PEFT adapts the same model.
    """

    what: str
    score: str
    steps: int
    batch: int
    head_rate: float | None
    build: Callable[[], tuple[keras.Model, keras.Model]]
    sets: Callable[[], Sets]
    measure: Callable[[keras.Model, Part], float]
    loss: Callable[[], keras.losses.Loss]
    seeds: int = 2
    has_peer: bool = False


def encoder_with(outputs: int) -> tuple[keras.Model, keras.Model]:
    """MiniLM, the mean over its tokens, and a fresh head."""
    return classifier.build(data.minilm_directory(), outputs)


def sentences() -> Sets:
    """Movie sentences, and 1 for the favourable ones."""
    return classifier.sentences(data.minilm_directory(), train=2048, validation=1000, test=2000)


def scored_sentences() -> Sets:
    """Movie sentences, and how favourable each is, from -1 to 1."""
    texts, scores = data.scored_sentences()
    sizes = {"train": 2048, "validation": 1000, "test": 2000}
    tokens = classifier.tokenize(data.minilm_directory(), texts[: sum(sizes.values())])
    return classifier.parts(tokens, scores[:, None], **sizes)


def language_model() -> tuple[keras.Model, keras.Model]:
    """SmolLM2-135M."""
    import language_models

    model = language_models.load("smollm2")
    model.preprocessor.sequence_length = 64
    return model, model.backbone


def plays() -> Sets:
    """Pages of the First Folio; those of Hamlet choose the rate, and report."""
    others, hamlet = data.folio_pieces(characters=200)
    return {
        "train": (others[:512], None),
        "validation": (hamlet[:32], None),
        "test": (hamlet[32:96], None),
    }


def accuracy(model: keras.Model, part: Part) -> float:
    """Returns the share of samples that the model gets right."""
    found = model.predict(part[0], batch_size=100, verbose=0)
    return float((found.argmax(-1) == part[1]).mean())


def correlation(model: keras.Model, part: Part) -> float:
    """Returns the correlation of the outputs with the scores."""
    found = model.predict(part[0], batch_size=100, verbose=0)
    return float(np.corrcoef(found[:, 0], part[1][:, 0])[0, 1])


def likelihood(model: keras.Model, part: Part) -> float:
    """Returns the mean logarithm of the probability of a token."""
    loss = model.evaluate(part[0], batch_size=4, verbose=0)
    return -float(loss if isinstance(loss, float) else loss[0])


def cross_entropy() -> keras.losses.Loss:
    """Returns the loss of a classifier, and of a language model."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


TASKS = {
    "digits": Task(
        what="a small vision transformer that knows upright digits reads turned negatives",
        score="accuracy",
        steps=320,
        batch=25,
        seeds=3,
        head_rate=3e-2,
        build=learning_images.vision_transformer,
        sets=learning_images.turned_digits,
        measure=accuracy,
        loss=cross_entropy,
    ),
    "sentences": Task(
        what="MiniLM judges movie sentences",
        score="accuracy",
        steps=96,
        batch=32,
        head_rate=1e-2,
        build=partial(encoder_with, 2),
        has_peer=True,
        sets=sentences,
        measure=accuracy,
        loss=cross_entropy,
    ),
    "scores": Task(
        what="MiniLM predicts how favourable a movie sentence is",
        score="correlation",
        steps=64,
        batch=32,
        head_rate=1e-2,
        build=partial(encoder_with, 1),
        has_peer=True,
        sets=scored_sentences,
        measure=correlation,
        loss=keras.losses.MeanSquaredError,
    ),
    "plays": Task(
        what="SmolLM2-135M reads the First Folio",
        score="log likelihood",
        steps=32,
        batch=4,
        head_rate=None,
        build=language_model,
        sets=plays,
        measure=likelihood,
        loss=cross_entropy,
    ),
}
