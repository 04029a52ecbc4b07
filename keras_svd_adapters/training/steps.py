"""The count of steps that an optimizer, and those that it wraps, has taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.runtime.host_values import to_float64

AVERAGE = "average"  # as Keras names moving averages


def chain_of(optimizer: Any) -> Iterator[Any]:
    """Yield an optimizer, then the one that it wraps, and so on."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def innermost(optimizer: Any) -> Any:
    """Return the optimizer that takes the steps, without what scales the loss or adds rules."""
    return list(chain_of(optimizer))[-1]


def batches_per_update(optimizer: Any) -> int:
    """Return the number of batches whose gradients one update gathers."""
    return int(getattr(innermost(optimizer), "gradient_accumulation_steps", None) or 1)


def batch_counter(optimizer: Any) -> keras.Variable:
    """Return the variable that counts the batches that an optimizer has seen."""
    inner = innermost(optimizer)
    return next((v for v in inner.variables if v.name == "iteration"), inner.iterations)


def state_of(optimizer: Any, variable: keras.Variable) -> list[keras.Variable]:
    """Return the variables of its own shape that an optimizer keeps of a variable.

    The moving average of the variable itself is none of them.
    """
    start = _start(variable)
    return [
        slot
        for slot in innermost(optimizer).variables
        if slot.name.startswith(start) and slot.shape == variable.shape
        if slot.name != start + AVERAGE
    ]


def averages_of(optimizer: Any, variable: keras.Variable) -> list[keras.Variable]:
    """Return the moving average of a variable that an optimizer keeps, if it keeps one."""
    name = _start(variable) + AVERAGE
    return [slot for slot in optimizer.variables if slot.name == name]


def begin_again(
    variable: keras.Variable, value: np.ndarray, optimizers: Iterable[Any], new: Any = True
) -> None:
    """Assign a value to a variable; optimizers forget what they kept of the value before.

    Args:
        variable: The variable.
        value: The value.
        optimizers: The optimizers.
        new: Which entries are new, as booleans; the optimizers keep what they have of the others.
    """
    variable.assign(value.astype("float32"))
    for optimizer in optimizers:
        for slot in state_of(optimizer, variable) if variable.trainable else ():
            slot.assign(np.where(new, 0.0, to_float64(slot)).astype("float32"))
        for average in averages_of(optimizer, variable):
            average.assign(np.where(new, value, to_float64(average)).astype("float32"))


def _start(variable: keras.Variable) -> str:
    return variable.path.replace("/", "_") + "_"
