"""The uniform start of a factor, as PyTorch's linear layers and HF PEFT have it."""

from __future__ import annotations

from math import sqrt

import numpy as np


def kaiming(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return a factor of shape `(..., rows, columns)`, uniform in +-1/sqrt(rows)."""
    bound = 1 / sqrt(shape[-2])
    return rng.uniform(-bound, bound, shape)
