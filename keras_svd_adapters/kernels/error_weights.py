"""How much each entry of the error of a kernel counts, by statistics of data.

    plain       sum E^2
    inputs      sum (s_i E_ij)^2      s mean |x| of each input     L2QER: Zhang et al. 2024
    fisher      sum F_ij E_ij^2       F mean squared gradients     LQ-LoRA: Guo et al. 2023

A decomposition weighs whole rows and columns only: `D1 E D2`. For F, these are the roots of its row
means and of its column means. arXiv:2402.02446, arXiv:2311.12023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_svd_adapters.methods.statistics import Statistics

FLOOR = 1e-4  # relative to the mean of the roots: inputs and outputs that the data never used


class ErrorWeights(NamedTuple):
    """The weights of the error of an `(m, n)` kernel.

    Args:
        entries: The weight of the square of each entry; it broadcasts to `(m, n)`.
        rows: Positive factors of the rows in a decomposition, `(m, 1)` or `(1, 1)`.
        columns: Those of the columns, `(1, n)` or `(1, 1)`.
    """

    entries: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    def size(self, matrix: np.ndarray) -> float:
        """Return the root of the weighted sum of the squares of a matrix."""
        squares: np.ndarray = matrix.astype("float64") ** 2
        return float(np.sqrt((self.entries * squares).sum()))


ONE: np.ndarray = np.ones((1, 1), dtype="float32")
PLAIN = ErrorWeights(ONE, ONE, ONE)


def of_inputs(found: Statistics) -> ErrorWeights:
    """Return weights by the mean size of each input."""
    assert found.magnitudes is not None
    sizes = found.magnitudes.absolute[:, None]
    return ErrorWeights(_float32(sizes**2), _roots(sizes**2), ONE)


def of_gradients(found: Statistics) -> ErrorWeights:
    """Return weights by the mean squared gradient of each entry."""
    F = found.squared_gradients
    assert F is not None
    means = [F.mean(axis=axis, keepdims=True) for axis in (1, 0)]
    return ErrorWeights(_float32(F), *map(_roots, means))


class Source(NamedTuple):
    """Where weights come from.

    Args:
        need: The field of `Statistics` that holds them.
        weights: Function from the statistics of a kernel to its weights.
    """

    need: str
    weights: Callable[[Statistics], ErrorWeights]


SOURCES = {
    "inputs": Source("magnitudes", of_inputs),
    "fisher": Source("squared_gradients", of_gradients),
}


def _roots(squares: np.ndarray) -> np.ndarray:
    """Return the roots relative to their mean, none near 0; 1 for each if all are 0."""
    roots = np.sqrt(squares)
    mean = roots.mean()
    return ONE if not mean else _float32(np.maximum(roots / mean, FLOOR))


def _float32(values: np.ndarray) -> np.ndarray:
    return values.astype("float32")
