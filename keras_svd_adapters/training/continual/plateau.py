"""Plateaus of the loss in a stream of data: where a task is learned, and a new one may begin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Stream(NamedTuple):
    """The state of a search for plateaus.

    Args:
        losses: The last losses, the newest one last.
        plateaus: The number of plateaus so far.
        mean: Mean of the losses at the last plateau.
        variance: Variance of the losses there.
        waits: Whether the loss must rise before the next plateau.
    """

    losses: tuple[float, ...] = ()
    plateaus: int = 0
    mean: float = 0.0
    variance: float = 0.0
    waits: bool = False


def after_loss(
    stream: Stream, loss: float, window: int, mean: float, variance: float
) -> tuple[Stream, bool]:
    """Return the state after one more loss, and whether a plateau begins with it.

    On a plateau, the last losses have a mean and a variance below the given ones. After a plateau,
    the mean must first rise above the mean of that plateau by more than a standard deviation.

    Args:
        stream: The state before.
        loss: The loss; one that is not finite is left out.
        window: Integer, the number of losses that count.
        mean: Float, the mean that they must be below.
        variance: Float, the variance that they must be below.
    """
    if not np.isfinite(loss):
        return stream, False
    losses = (*stream.losses, loss)[-window:]
    now, spread = float(np.mean(losses)), float(np.var(losses))
    waits = stream.waits and now <= stream.mean + stream.variance**0.5
    stream = stream._replace(losses=losses, waits=waits)
    if len(losses) < window or waits or not (now < mean and spread < variance):
        return stream, False
    return Stream(losses, stream.plateaus + 1, now, spread, waits=True), True


def to_array(stream: Stream, size: int) -> np.ndarray:
    """Return a state as an array of this size, at least 5 more than losses count."""
    numbers = [*stream[1:], len(stream.losses), *stream.losses]
    return np.array(numbers + [0.0] * (size - len(numbers)), "float32")


def from_array(array: np.ndarray) -> Stream:
    """Return the state that an array holds."""
    plateaus, mean, variance, waits, count, *losses = map(float, array)
    return Stream(tuple(losses[: int(count)]), int(plateaus), mean, variance, bool(waits))
