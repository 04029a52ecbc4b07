"""From losses at rising learning rates to the rate to train with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_svd_adapters.training.rate_report import RateCurve

MEMORY = 0.8  # of the exponential mean: how much of it each step keeps
SHARE = 0.5  # of the fall of the loss, at the suggestion
PATIENCE = 2.0  # a loss has exploded if it rises by this many times its fall, and by its noise


def curve_of(rates: Sequence[float], losses: Sequence[float]) -> RateCurve:
    """Return the curve of a search, with its suggestion.

    The suggestion is the lowest rate at which the smoothed loss has fallen half of the way. The
    place of the steepest fall or of the lowest loss depends on the noise of single batches.

    Args:
        rates: Learning rates, from low to high.
        losses: The loss of each step, minus the difficulty of its batch.
    """
    smoothed = smooth(losses)
    halfway = smoothed[0] - SHARE * (smoothed[0] - smoothed.min())
    best = rates[int(np.argmax(smoothed <= halfway))]
    return RateCurve(np.array(rates), np.array(losses), smoothed, float(f"{best:.1e}"))


def smooth(losses: Sequence[float]) -> np.ndarray:
    """Return the exponential mean of some losses, without the bias towards its start at 0."""
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        smoothed.append(mean / (1 - MEMORY**step))
    return np.array(smoothed)


def has_exploded(losses: Sequence[float], noise: float) -> bool:
    """Return whether the loss is so far above its lowest value that no later rate counts."""
    if not np.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses)
    lowest = smoothed.min()
    return bool(smoothed[-1] - lowest > PATIENCE * (smoothed[0] - lowest) + noise)
