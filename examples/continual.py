"""Three tasks one after another on a real encoder: what one LoRA forgets, and what others keep.

    python examples/continual.py

Each task has two outputs of the head, and its loss leaves the others alone. So all that is
forgotten is forgotten by the adapter. The backend is that of `KERAS_BACKEND`.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import classifier
import data
import keras
import numpy as np
from keras import ops

import keras_svd_adapters as ksa
from keras_svd_adapters.runtime.tables import table

TRAIN, TEST, EPOCHS, RATE = 2048, 1000, 1, 3e-3
TASKS = {
    "movies": data.movie_sentences,
    "products": data.product_sentences,
    "plays": lambda: data.folio_histories(characters=100),
}
METHODS = {
    "one LoRA": ksa.LoRA(rank=8),
    "a sum of LoRAs": ksa.methods.TaskLoRA(rank=8, tasks=3, orthogonality=0.0),
    "O-LoRA": ksa.methods.TaskLoRA(rank=8, tasks=3),
}


class OutputsOfTheTask(keras.losses.Loss):
    """Cross-entropy of the two outputs of a task, for targets `2 * task + label`."""

    def call(self, y_true, y_pred):
        target = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        task = ops.one_hot(target // 2, len(TASKS), dtype=y_pred.dtype)
        own = ops.sum(ops.reshape(y_pred, (-1, len(TASKS), 2)) * task[..., None], axis=1)
        return keras.losses.sparse_categorical_crossentropy(target % 2, own, from_logits=True)


def tokens_of_tasks() -> dict[str, dict]:
    """Tokens and targets to train and to test, for each task."""
    found = {}
    for number, (name, read) in enumerate(TASKS.items()):
        texts, labels = read()
        tokens = classifier.tokenize(data.minilm_directory(), texts[: TRAIN + TEST])
        found[name] = classifier.parts(tokens, 2 * number + labels, train=TRAIN, test=TEST)
    return found


def fit(model: keras.Model, part: tuple) -> None:
    """Trains on one task with a new optimizer."""
    model.compile(keras.optimizers.Adam(RATE), OutputsOfTheTask())
    model.fit(*part, batch_size=32, epochs=EPOCHS, verbose=0)


def score(outputs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Accuracy and loss of a task."""
    own = outputs.reshape(-1, len(TASKS), 2)[np.arange(len(targets)), targets // 2]
    loss = float(ops.mean(OutputsOfTheTask()(targets, outputs)))
    return float((own.argmax(-1) == targets % 2).mean()), loss


def test(model: keras.Model, part: dict) -> tuple[float, float]:
    """Accuracy and loss of a task, with the active adapter."""
    x, targets = part["test"]
    return score(model.predict(x, batch_size=100, verbose=0), targets)


def one_after_another(method: ksa.Method, sets: dict, seed: int) -> tuple[list, list]:
    """One adapter for all tasks; returns the scores of each task at once, and at the end."""
    keras.utils.set_random_seed(seed)
    model, _ = classifier.build(data.minilm_directory(), outputs=2 * len(TASKS))
    ksa.enable(model, method, train="head", verbose=0)
    at_once = []
    for number, part in enumerate(sets.values()):
        if number and method.restarts:
            ksa.begin_task(model, seed=seed)
        fit(model, part["train"])
        at_once.append(test(model, part))
    return at_once, [test(model, part) for part in sets.values()]


def one_for_each(sets: dict, seed: int) -> tuple[list, list, list]:
    """One adapter for each task; scores if the task is known, if centers choose, and how often."""
    keras.utils.set_random_seed(seed)
    model, _ = classifier.build(data.minilm_directory(), outputs=2 * len(TASKS))
    encoder = keras.Model(model.inputs, model.get_layer("mean").output)
    known, features, samples = [], {}, {}
    for name, part in sets.items():
        ksa.enable(model, ksa.LoRA(rank=8), train="head", name=name, verbose=0)
        fit(model, part["train"])
        known.append(test(model, part))
        with ksa.disabled(model):
            features[name] = encoder.predict(part["train"][0], batch_size=100, verbose=0)
            samples[name] = encoder.predict(part["test"][0], batch_size=100, verbose=0)
    prototypes = ksa.Prototypes.fit(features, clusters=5, seed=seed)
    chosen, right = [], []
    for name, part in sets.items():
        names = prototypes.names(samples[name])
        right.append(float(np.mean([each == name for each in names])))
        outputs = ksa.predict(model, part["test"][0], names, batch_size=100)
        chosen.append(score(outputs, part["test"][1]))
    return known, chosen, right


def row(label: str, scores: list[tuple[float, float]]) -> tuple[str, ...]:
    """A row of the table: accuracy and loss of each task, and the mean accuracy."""
    mean = np.mean([accuracy for accuracy, _ in scores])
    cells = [f"{accuracy:.3f} ({loss:.2f})" for accuracy, loss in scores]
    return (label, *cells, f"{mean:.3f}")


def main() -> None:
    start = time.perf_counter()
    print(f"Keras {keras.__version__} on {keras.backend.backend()}")
    sets = tokens_of_tasks()
    shares = [float((part["test"][1] % 2).mean()) for part in sets.values()]
    rows = [("the more frequent class", *(f"{max(s, 1 - s):.3f}" for s in shares), "")]
    for label, method in METHODS.items():
        at_once, end = one_after_another(method, sets, seed=0)
        rows += [row(f"{label}, right after the task", at_once), row(f"{label}, at the end", end)]
        print(f"{label}: {time.perf_counter() - start:.0f} s", flush=True)
    known, chosen, right = one_for_each(sets, seed=0)
    rows += [row("CoLoR, task known", known), row("CoLoR, chosen by centers", chosen)]
    rows += [("CoLoR, share of right choices", *(f"{each:.3f}" for each in right), "")]
    print(table(("accuracy (loss)", *sets, "mean"), rows))
    print(f"{TRAIN} samples to train and {TEST} to test for each task; a standard error is 0.015.")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
