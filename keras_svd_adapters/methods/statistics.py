"""What data showed about a kernel, for the starts of methods and for reports."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Inputs(NamedTuple):
    """Moments of the inputs of a kernel, over all rows of the data, in float64.

    Args:
        rows: Number of rows.
        mean: Mean of the rows, of shape `(m,)`.
        second: Mean of `x^T x`, of shape `(m, m)`.
    """

    rows: int
    mean: np.ndarray
    second: np.ndarray


class Magnitudes(NamedTuple):
    """Sizes of the inputs of a kernel, over all rows of the data, in float64.

    Args:
        rows: Number of rows.
        absolute: Mean of `|x|`, of shape `(m,)`.
        square: Mean of `x^2`, of shape `(m,)`.
    """

    rows: int
    absolute: np.ndarray
    square: np.ndarray


class Components(NamedTuple):
    """The largest principal components of the inputs of a kernel, around their mean, in float64.

    Args:
        rows: Number of rows.
        vectors: The directions as columns, of shape `(m, q)`, orthonormal.
        variances: The variance of the inputs along each, of shape `(q,)`, from large to small.
        total: The variance of the inputs along all `m` directions.
    """

    rows: int
    vectors: np.ndarray
    variances: np.ndarray
    total: float


class ExpertLoad(NamedTuple):
    """How a router spreads the rows of data over the experts of a kernel, in float64.

    Args:
        rows: Number of rows.
        share: Share of the rows in which each expert has the largest weight, of shape `(k,)`.
        used: Share of the rows in which its weight is not 0.
        gate: Its mean weight.
    """

    rows: int
    share: np.ndarray
    used: np.ndarray
    gate: np.ndarray


class Statistics(NamedTuple):
    """What a pass of data through the model found for a kernel, as far as it was asked for.

    Args:
        inputs: Moments of the inputs.
        gradient: Gradient of the mean loss by the kernel, of shape `(m, n)`.
        magnitudes: Sizes of the inputs.
        branch_norms: Mean of `|x (K' - K)|^2` over all rows, with the active adapter.
        squared_gradients: Mean, over all samples, of the squares of the gradient of the loss of one
            sample by the kernel, of shape `(m, n)`.
        components: As many principal components of the inputs as `Method.components` says.
        expert_load: How the router of the active adapter spreads the rows over its experts.
    """

    inputs: Inputs | None = None
    gradient: np.ndarray | None = None
    magnitudes: Magnitudes | None = None
    branch_norms: float | None = None
    squared_gradients: np.ndarray | None = None
    components: Components | None = None
    expert_load: ExpertLoad | None = None
