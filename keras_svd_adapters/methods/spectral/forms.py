"""Which form of `x K'` is accurate and takes the fewest operations, for spectral methods."""

from __future__ import annotations

from math import inf

import numpy as np

SMALLEST_TO_MEDIAN, SMALLEST_TO_LARGEST = 0.05, 1e-3


def smallest_are_safe(m: int, n: int, s: np.ndarray | None) -> bool:
    """Return whether a division by the singular values is accurate, by the shape and the values."""
    if 2 * min(m, n) > max(m, n):  # the smallest values of a square kernel are near 0
        return False
    return s is None or bool(
        s[0] > 0
        and s[-1] >= SMALLEST_TO_MEDIAN * np.median(s)
        and s[-1] >= SMALLEST_TO_LARGEST * s[0]
    )


def break_even(m: int, n: int, form: str) -> float:
    """Return the number of tokens above which `x (K + delta)` takes fewer operations.

    The unit is a product with the kernel, forward and backward. `x (K + delta)` takes 1.5 units
    plus the cost of making the delta. The cost of making the delta does not grow with the tokens.
    """
    k, ratio = min(m, n), min(m, n) / max(m, n)
    made, otherwise = {
        "two_sided": (1.0, 2 + ratio),
        "factored": (1.0, 1 + ratio),
    }.get(form, (1.5, 1 + 2 * ratio))
    return made * k / (otherwise - 1.5) if otherwise > 1.5 else inf
