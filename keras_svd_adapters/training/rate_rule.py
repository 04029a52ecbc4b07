"""From losses at rising learning rates to the rate to train with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_svd_adapters.training.rate_report import RateCurve

LAG = 1 / 15  # of all steps, by which the exponential mean follows the losses
MARGIN = 10.0  # by which a rate must stay below the one at which the loss explodes
BEYOND = 10 / 3  # assumed distance of that rate from the highest one, if the loss does not explode
PATIENCE = 2.0  # a loss has exploded if it rises by this many times its fall, and by its noise


def curve_of(rates: Sequence[float], losses: Sequence[float]) -> RateCurve:
    """Return the curve of a search, with its suggestion.

    The suggestion is the geometric mean of two rates: that at which the smoothed loss has made half
    of its fall, and a tenth of that at which it explodes. The factors are those that fit the best
    rates of the learning study.

    Args:
        rates: All learning rates, from low to high.
        losses: The loss of each step, minus the difficulty of its batch. The search may end before
            the highest rate.
    """
    smoothed, tried = smooth(losses, len(rates)), np.array(rates[: len(losses)])
    half = tried[np.argmax(smoothed <= (smoothed[0] + smoothed.min()) / 2)]
    end = tried[-1] if len(losses) < len(rates) else BEYOND * tried[-1]
    suggestion = float(f"{np.sqrt(half * end / MARGIN):.1e}")
    return RateCurve(tried, np.array(losses), smoothed, suggestion)


def smooth(losses: Sequence[float], steps: int) -> np.ndarray:
    """Return the exponential mean of some losses, without the bias towards its start at 0."""
    memory = LAG * steps / (1 + LAG * steps)
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = memory * mean + (1 - memory) * loss
        smoothed.append(mean / (1 - memory**step))
    return np.array(smoothed)


def has_exploded(losses: Sequence[float], steps: int, noise: float) -> bool:
    """Return whether the loss is so far above its lowest value that no later rate counts."""
    if not np.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses, steps)
    lowest = smoothed.min()
    return bool(smoothed[-1] - lowest > PATIENCE * (smoothed[0] - lowest) + noise)
