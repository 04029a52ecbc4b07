"""Arguments of `search_blend` and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np

from keras_svd_adapters.merging.cross_entropy import Score
from keras_svd_adapters.methods.hyperparameters import check_positive_integers, check_seed
from keras_svd_adapters.models.weights_request import is_weight

HOWS = ("exact", "factors")


def numbers_of(value: Any) -> Score:
    """Return what a score function returned as numbers; NaN is less than any other."""
    try:
        numbers = [float(each) for each in (value if isinstance(value, tuple) else (value,))]
    except (TypeError, ValueError):
        numbers = []
    if not numbers:
        raise ValueError(
            "`score` returns a number for the model, larger for a better one, or a tuple of "
            f"numbers. Received: {value!r}"
        )
    return tuple(float("-inf") if isnan(each) else each for each in numbers)


def check_request(
    names: Any,
    score: Any,
    bounds: Any,
    population: Any,
    elite: Any,
    iterations: Any,
    penalty: Any,
    seed: Any,
    how: Any,
    start: Any,
    into: Any,
) -> int:
    """Return the number of elites; raise an error if an argument is wrong."""
    is_listed = isinstance(names, Sequence) and not isinstance(names, str) and len(names) > 0
    if not is_listed or len(set(map(str, names))) < len(names):
        raise ValueError(
            f"`names` lists different adapters, such as ['a', 'b']. Received: names={names!r}"
        )
    if not callable(score):
        raise ValueError(f"`score` is a function of the model. Received: score={score!r}")
    is_pair = isinstance(bounds, Sequence) and len(bounds) == 2 and all(map(is_weight, bounds))
    if not is_pair or not bounds[0] < bounds[1]:
        raise ValueError(
            "`bounds` are the smallest and the largest weight, such as (-1.5, 1.5). "
            f"Received: bounds={bounds!r}"
        )
    check_positive_integers(population=population, iterations=iterations)
    check_seed(seed)
    elites = int(elite * population) if is_weight(elite) else 0
    if not 2 <= elites <= population:
        raise ValueError(
            "`elite` is a share of the population, of at least 2 members: the next spread is "
            f"theirs. Received: elite={elite!r}, population={population}"
        )
    if not is_weight(penalty) or penalty < 0:
        raise ValueError(f"`penalty` must not be negative. Received: penalty={penalty!r}")
    if how not in HOWS:
        raise ValueError(f"`how` must be one of {HOWS}. Received: how={how!r}")
    if start is not None and not (is_weight(start) and bounds[0] <= start <= bounds[1]):
        raise ValueError(
            f"`start` is a weight within the bounds, such as 0.0. Received: start={start!r}, "
            f"bounds={bounds!r}"
        )
    if how == "factors" and into is None:
        raise ValueError(
            "A sum of factors is an adapter of its own, not the others with weights: name it, as "
            f"in `search_blend(..., into='blend', how='factors')`. Received: into={into!r}"
        )
    return elites


def points_of(
    candidates: Any, names: Sequence[str], bounds: tuple[float, float], population: int
) -> list[np.ndarray]:
    """Return weights as points of a search; raise an error if they are wrong."""
    is_listed = isinstance(candidates, Sequence)
    is_listed = is_listed and all(isinstance(each, Mapping) for each in candidates)
    if not is_listed or any(
        name not in names or not is_weight(weight) or not bounds[0] <= weight <= bounds[1]
        for each in candidates
        for name, weight in each.items()
    ):
        raise ValueError(
            f"`candidates` lists weights of {list(names)} within {tuple(bounds)}, such as "
            f"[{{{names[0]!r}: {bounds[1]}}}]. Received: candidates={candidates!r}"
        )
    if len(candidates) >= population:
        raise ValueError(
            "The first population holds `candidates` and the mean: raise `population` to at "
            f"least {len(candidates) + 1}. Received: population={population}, "
            f"candidates={candidates!r}"
        )
    return [np.array([each.get(name, 0.0) for name in names], "float64") for each in candidates]
