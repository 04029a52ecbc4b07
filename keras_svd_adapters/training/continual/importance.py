"""How important the trained values of adapters are for some samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.runtime.gradients import (
    gradients_on_host,
    loss_factor,
    without_gradients,
)
from keras_svd_adapters.runtime.host_values import to_float64


def importance(
    model: keras.Model, variables: Sequence[keras.Variable], x: Any, y: Any, hardest: int
) -> list[np.ndarray]:
    """Return the mean squares of gradients of `log p(predicted class)`, one array a variable.

    The mean is over the samples with the highest loss.

    Args:
        model: A compiled classifier with one output.
        variables: The trained variables.
        x: Inputs.
        y: Targets.
        hardest: Integer, the number of samples that count.
    """
    loss = keras.losses.get(model.loss)

    def loss_of(y_of_one: Any, output: Any) -> Any:
        return ops.mean(loss(ops.convert_to_tensor(y_of_one)[None], output))

    outputs = without_gradients(lambda: model(x, training=False))
    losses = [float(to_float64(loss_of(y[i], outputs[i : i + 1]))) for i in range(len(outputs))]
    chosen = np.argsort(losses, kind="stable")[::-1][:hardest]
    predicted = to_float64(outputs).argmax(axis=-1)
    if np.shape(y) == outputs.shape:
        predicted = np.eye(outputs.shape[-1], dtype="float32")[predicted]
    found, factor = [np.zeros(v.shape) for v in variables], loss_factor(model)
    for i in map(int, chosen):
        one = keras.tree.map_structure(lambda part: part[i : i + 1], x)  # noqa: B023
        slopes = gradients_on_host(
            lambda: loss_of(predicted[i], model(one, training=False)),  # noqa: B023
            variables,
            factor,
        )
        for mean, slope in zip(found, slopes, strict=True):
            mean += slope**2 / len(chosen)
    return found
