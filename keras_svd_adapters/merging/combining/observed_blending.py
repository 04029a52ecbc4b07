"""Blend updates of a kernel by what data says of it: RegMean and Fisher merging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_svd_adapters.merging.combining.blending import Blend, Changes
from keras_svd_adapters.models.sites.site import Site

OFF_DIAGONAL = 0.9  # factor of the second moments between two inputs
DAMPING, FLOOR = 1e-6, 1e-6  # relative to the mean of the diagonal, and to the largest square


def regmean(
    changes: Changes,
    weights: Sequence[float],
    moments: Sequence[np.ndarray],
    off_diagonal: float = OFF_DIAGONAL,
) -> np.ndarray:
    """Return the update whose outputs are nearest to those of each adapter on its own inputs.

    With `off_diagonal=1`, it minimizes `sum w_i |x_i (D - D_i)|^2` over the inputs of all adapters.

    Args:
        changes: The updates `D_i`, of shape `(m, n)`.
        weights: Positive numbers.
        moments: For each adapter the mean of `x^T x` over its inputs, of shape `(m, m)`.
        off_diagonal: Factor of the moments between different inputs, which are less certain.

    Reference:
        - [Jin et al., 2022](https://arxiv.org/abs/2212.09849)
    """
    scaled = [
        w * (off_diagonal * G + (1 - off_diagonal) * np.diag(np.diag(G)))
        for w, G in zip(weights, moments, strict=True)
    ]
    total: np.ndarray = np.sum(scaled, axis=0)
    damping = DAMPING * (float(np.trace(total)) / len(total) or 1.0)
    summed = sum(G @ D for G, D in zip(scaled, changes, strict=True))
    mean = np.average(changes, axis=0, weights=weights)  # where no data reaches
    return np.linalg.solve(total + damping * np.eye(len(total)), summed + damping * mean)  # type: ignore[no-any-return]


def fisher(changes: Changes, weights: Sequence[float], squares: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of updates, in which each entry counts by its Fisher information.

    Args:
        changes: The updates, of shape `(m, n)`.
        weights: Positive numbers.
        squares: For each adapter the mean squared gradients of the kernel, of shape `(m, n)`.

    Reference:
        - [Matena & Raffel, 2021](https://arxiv.org/abs/2111.09832)
    """
    floor = FLOOR * (max(float(F.max()) for F in squares) or 1.0)
    shares = [w * (F + floor) for w, F in zip(weights, squares, strict=True)]
    summed = sum(share * D for share, D in zip(shares, changes, strict=True))
    return summed / np.sum(shares, axis=0)  # type: ignore[no-any-return]


OBSERVED: dict[str, tuple[str, Callable[[Any], np.ndarray], Callable[..., np.ndarray]]] = {
    "regmean": ("inputs", lambda inputs: inputs.second, regmean),
    "fisher": ("squared_gradients", np.asarray, fisher),
}


def observed_blends(
    how: str, observed: Mapping[str, Mapping[str, Any]], names: Sequence[str], site: Site
) -> list[Blend]:
    """Return the function that blends the updates of each matrix of a kernel.

    Args:
        how: `"regmean"` or `"fisher"`.
        observed: What `observe` found with each adapter.
        names: The adapters of the kernel.
        site: The kernel.
    """
    field, read, blend = OBSERVED[how]
    found = []
    for place in site.places:
        statistics = []
        for name in names:
            report = observed[name]
            kernel = report.get(site.path + place) or report.get(site.key + place)
            value = None if kernel is None else getattr(kernel, field)
            if value is None:
                raise ValueError(
                    f"`how={how!r}` needs the {field} of each kernel: with {name!r} active, type "
                    f"`observe(model, data, what={field!r})`. Received: a report of {name!r} "
                    f"without those of `{site.path + place}`"
                )
            statistics.append(read(value))
        found.append(_with(blend, statistics))
    return found


def _with(blend: Callable[..., np.ndarray], statistics: list[np.ndarray]) -> Blend:
    return lambda changes, weights: blend(changes, weights, statistics)
