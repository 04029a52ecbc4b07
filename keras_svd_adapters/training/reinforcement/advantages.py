"""Advantages: by how much the reward of a completion exceeds its baseline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def _none(rewards: np.ndarray) -> np.ndarray:
    return rewards


def _batch(rewards: np.ndarray) -> np.ndarray:
    return rewards - rewards.mean(axis=(0, 1))


def _leave_one_out(rewards: np.ndarray) -> np.ndarray:
    samples = rewards.shape[1]
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (samples - 1)
    return rewards - others


BASELINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": _none,
    "batch": _batch,
    "leave_one_out": _leave_one_out,
}


def advantages(rewards: np.ndarray, baseline: str) -> np.ndarray:
    """Return the rewards minus a baseline.

    Args:
        rewards: Array `(prompts, samples, ...)`. Further axes, such as tokens, have their own
            baselines.
        baseline: `"none"`, `"batch"` (the mean of the batch), or `"leave_one_out"` (the mean of
            the other samples of the same prompt, which keeps the gradient unbiased).
    """
    return BASELINES[baseline](rewards)
