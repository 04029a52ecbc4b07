"""The rate at which the backward pass of each branch of a model is dropped, from sensitivities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_svd_adapters.models.batches import on_host
from keras_svd_adapters.models.observation.batches import as_tensors
from keras_svd_adapters.runtime.gradients import gradients_on_host, loss_factor

HIGHEST = 9  # tenths


def sensitivities(model: Any, layers: Sequence[Any], data: Any) -> list[float]:
    """Return how much the gradients change if one branch alone is dropped.

    This is the square of the change of a norm, summed over the trained variables. All passes draw
    the same random numbers.

    Args:
        model: A compiled model.
        layers: The last layer of each branch, with a gate.
        data: A batch, as `fit` reads it.
    """
    x, y, weight = as_tensors(model, on_host(data))
    factor = loss_factor(model)

    def loss() -> Any:
        return model.compute_loss(x, y, model(x, training=True), weight)

    def norms(dropped: Any) -> np.ndarray:
        for layer in layers:
            layer.active_gate.close(layer is dropped)
        found = gradients_on_host(loss, model.trainable_variables, factor)
        return np.array([np.linalg.norm(each) for each in found])

    whole = norms(None)
    changes = [float(np.sum((norms(layer) - whole) ** 2)) for layer in layers]
    if not np.isfinite(changes).all():
        raise ValueError(
            "The gradients of the batch in `data` are NaN or infinite: check it, and the learning "
            f"rate. Received: gradients of norm {np.linalg.norm(whole)}"
        )
    return changes


def allocated_rates(sensitive: Sequence[float], costs: Sequence[float], rate: float) -> list[float]:
    """Return the rate of each branch, so that a share of all costs is dropped on average.

    The rate of the branch for which sensitivity times new rate is smallest rises by 0.1, up to
    0.9, until the share is reached.

    Args:
        sensitive: The sensitivity of each branch.
        costs: The cost of the backward pass of each branch.
        rate: The share.
    """
    tenths = [0] * len(costs)
    target = 10 * rate * sum(costs) * (1 - 1e-9)
    while sum(cost * tenth for cost, tenth in zip(costs, tenths, strict=True)) < target:
        free = [place for place, tenth in enumerate(tenths) if tenth < HIGHEST]
        tenths[min(free, key=lambda place: sensitive[place] * (tenths[place] + 1))] += 1
    return [tenth / 10 for tenth in tenths]
