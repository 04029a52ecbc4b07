"""Optimizer and metrics of a model, built before TensorFlow traces the first step.

`tf.function` traces a function a second time if the first trace makes variables. The slots of an
optimizer and the metrics make theirs at the first step, so Keras alone traces each step twice.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import chain, islice
from typing import Any

import keras

from keras_svd_adapters.models.batches import unpacked
from keras_svd_adapters.runtime.keras_private.tracing import trace_shapes


def builds_first(model: Any, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a training function that builds the optimizer and the metrics at its first call."""
    if keras.backend.backend() != "tensorflow":
        return function
    waits = not model.run_eagerly and type(model).train_step is keras.Model.train_step

    def train(batches: Any) -> Any:
        nonlocal waits
        if waits:
            waits = False
            batches = _build(model, batches)
        return function(batches)

    return train


def _build(model: Any, batches: Any) -> Any:
    """Build the optimizer and the metrics of a model, and return the same batches."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_weights)
    has_one_output = len(getattr(model, "outputs", ())) == 1  # a subclassed model does not say
    if has_one_output and all(getattr(metric, "built", True) for metric in model.metrics):
        return batches
    batch, batches = _first(batches)
    with suppress(Exception):  # the step fails as well, or its trace makes the variables
        _build_metrics(model, keras.tree.map_structure(_symbol, batch))
    return batches


def _first(batches: Any) -> tuple[Any, Any]:
    """Return the first batch, or a description of it, and all the batches."""
    if hasattr(batches, "element_spec"):
        return batches.element_spec, batches
    rest = iter(batches)
    head = list(islice(rest, 1))
    return head[0] if head else None, chain(head, rest)


def _symbol(part: Any) -> Any:
    if part is None:
        return None
    dtype = keras.backend.standardize_dtype(part.dtype)
    return keras.KerasTensor(tuple(part.shape), dtype)


def _build_metrics(model: Any, batch: Any) -> None:
    """Make the variables of the loss and the metrics, whose shapes depend on the outputs."""

    def step(x: Any, y: Any, sample_weight: Any) -> Any:
        y_pred = model(x)
        model.compute_loss(x, y, y_pred, sample_weight)
        model.compute_metrics(x, y, y_pred, sample_weight)
        return y_pred

    trace_shapes(step, *unpacked(batch))
