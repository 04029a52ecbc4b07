"""Blend several updates of one kernel into one: weighted sum, TIES and DARE."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Changes = Sequence[np.ndarray]
Blend = Callable[[Changes, Sequence[float]], np.ndarray]


def weighted_sum(changes: Changes, weights: Sequence[float]) -> np.ndarray:
    """Return the sum of the updates, each times its weight."""
    return sum(w * change for w, change in zip(weights, changes, strict=True))  # type: ignore[return-value]


def ties(changes: Changes, weights: Sequence[float], density: float) -> np.ndarray:
    """Blend by TIES: keep the largest entries of each update, average those that agree in sign.

    Reference:
        - [Yadav et al., 2023](https://arxiv.org/abs/2306.01708)
    """
    trimmed = np.stack([largest(change, density) for change in changes])
    agree = np.sign(trimmed) == np.sign(trimmed.sum(axis=0))
    agree &= trimmed != 0
    scale: np.ndarray = np.reshape(weights, (-1,) + (1,) * changes[0].ndim)
    return (scale * trimmed * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)


def largest(change: np.ndarray, density: float) -> np.ndarray:
    """Keep the share of entries with the largest magnitudes, at least one; set the others to 0."""
    count = max(int(density * change.size), 1)
    kept = np.zeros(change.size)
    places = np.argpartition(-np.abs(change.ravel()), count - 1)[:count]
    kept[places] = change.ravel()[places]
    return kept.reshape(change.shape)


def dare(
    changes: Changes, weights: Sequence[float], density: float, rng: np.random.Generator
) -> np.ndarray:
    """Blend by DARE: drop entries at random, scale up the others, return the weighted sum.

    Reference:
        - [Yu et al., 2023](https://arxiv.org/abs/2311.03099)
    """
    kept = [change * (rng.random(change.shape) < density) / density for change in changes]
    return weighted_sum(kept, weights)
