"""Search for the weights of several adapters by a score of a few examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.combining.combine import combine, new_adapters
from keras_svd_adapters.merging.combining.combine_request import CombineRequest
from keras_svd_adapters.merging.cross_entropy import Score, cross_entropy_search
from keras_svd_adapters.methods.hyperparameters import check_positive_integers, check_seed
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.switching import restore_switch_on_error, set_adapter
from keras_svd_adapters.models.weights_request import is_weight
from keras_svd_adapters.runtime.tables import Bars, Table, TableReport


@dataclass(frozen=True, repr=False)
class BlendSearch(TableReport):
    """The best weights of a search, which are active afterwards. Printing it shows a table.

    Args:
        weights: The weight of each adapter.
        score: The score of these weights, without the penalty.
        history: The best score after each iteration, less the penalty.
        spread: Standard deviation of each weight among the best members of the last iteration; 0
            if the search has converged.
        combined: The report of `combine`, if the search made an adapter.
    """

    weights: dict[str, float]
    score: float
    history: tuple[float, ...] = field(repr=False)
    spread: dict[str, float] = field(repr=False)
    combined: Approximation | None = field(default=None, repr=False)

    def as_table(self) -> Table:
        rows = [
            (name, f"{weight:.3g}", f"{self.spread[name]:.2g}")
            for name, weight in self.weights.items()
        ]
        notes = f"score {self.score:.4g}, after {len(self.history)} iterations"
        if self.combined is not None:
            notes += f"\n{self.combined.as_table().notes}"
        return Table(("adapter", "weight", "spread"), rows, notes)

    def as_bars(self) -> Bars:
        return Bars("weight", self.weights)


def search_blend(
    model: keras.layers.Layer,
    names: Sequence[str],
    score: Callable[[Any], Any],
    into: str | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    population: int = 32,
    elite: float = 0.2,
    iterations: int = 50,
    penalty: float = 0.0,
    seed: int = 0,
    starts: Sequence[Mapping[str, float]] = (),
) -> BlendSearch:
    """Search the weights of several adapters that score best, without gradients.

    The cross-entropy method draws weights around a mean, and moves the mean to the best ones. The
    search sets the weights as `set_adapter(model, {...})` does, so nothing is traced again. The
    same seed and scores give the same weights. The model sums the changes of the kernels; LoRAHub
    sums the factors of LoRAs, whose products then mix.

    Args:
        model: A model with adapters.
        names: Names of the adapters. Their order has no effect on the sum.
        score: Function of the model that returns a number, such as the accuracy on
            some examples; larger is better. Or it returns a tuple: later numbers, such as a
            mean log likelihood, decide between equal first ones. NaN is worse than any number.
        into: Name of a new adapter with the best blend, made by `combine`. Without it, the
            adapters stay active with their best weights, frozen.
        bounds: The smallest and the largest weight. LoRAHub uses `(-1.5, 1.5)`.
        population: Number of weights that each iteration scores.
        elite: Share of these that the next iteration is drawn around.
        iterations: Number of iterations.
        penalty: Subtracted from the score, times the mean size of the weights. LoRAHub
            uses 0.05.
        seed: Seed of the random numbers.
        starts: List of weights, such as `[{"a": 1.0}, {"b": 1.0}]`, among the first population.
            The best weights score at least as well as each of these, less the penalty. An
            adapter that is left out has the weight 0.

    Returns:
        A `BlendSearch` with the best weights.

    Raises:
        ValueError: If there is no adapter of a name, `into` is taken or `combine`
            cannot make it, `score` returns no number, or another argument is wrong. The
            model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> for name in ("a", "b"):
    ...     _ = ksa.enable(model, ksa.LoRA(rank=2), name=name)
    >>> x = keras.ops.ones((4, 8))
    >>> def score(model):
    ...     return -float(keras.ops.mean((model(x) - 1.0) ** 2))
    >>> blend = ksa.search_blend(model, ["a", "b"], score, population=4, elite=0.5, iterations=2)
    >>> sorted(blend.weights)
    ['a', 'b']

    Reference:
        - Weights of LoRAs by a search: [LoRAHub, Huang et al., 2023](https://arxiv.org/abs/2307.13269)
        - The cross-entropy method for them: [Transformer-squared, Sun et al., 2025](https://arxiv.org/abs/2501.06252)
    """
    elites = _check_request(names, score, bounds, population, elite, iterations, penalty, seed)
    points = _points(starts, names, bounds, population)
    for name in names:
        require_adapter(model, name)
    if into is not None:
        check_combination(model, names, into)
    require_values(model, f"search_blend({list(names)})")

    def scored(point: np.ndarray) -> Score:
        set_adapter(model, _named(names, point))
        value = _numbers(score(model))
        return (value[0] - penalty * float(np.abs(point).mean()), *value[1:])

    half = (bounds[1] - bounds[0]) / 2
    size = len(names)
    start = (np.full(size, 1 / size), np.full(size, half))
    history = []
    with restore_switch_on_error(model):
        for found in cross_entropy_search(
            scored, *start, bounds, population, elites, iterations, seed, points
        ):
            history.append(found.score[0])
        best = _named(names, found.point)
        set_adapter(model, best)
        combined = None if into is None else combine(model, best, into)
    plain = found.score[0] + penalty * float(np.abs(found.point).mean())
    return BlendSearch(best, plain, tuple(history), _named(names, found.spread), combined)


def check_combination(model: keras.layers.Layer, names: Sequence[str], into: str) -> None:
    """Raise an error, before the search, if `combine` could not make the new adapter."""
    new_adapters(model, CombineRequest(dict.fromkeys(names, 1.0), "exact", *[None] * 4), into)


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _points(
    starts: Any, names: Sequence[str], bounds: tuple[float, float], population: int
) -> list[np.ndarray]:
    """Return weights as points of a search; raise an error if they are wrong."""
    is_listed = isinstance(starts, Sequence) and all(isinstance(each, Mapping) for each in starts)
    if not is_listed or any(
        name not in names or not is_weight(weight) or not bounds[0] <= weight <= bounds[1]
        for each in starts
        for name, weight in each.items()
    ):
        raise ValueError(
            f"`starts` lists weights of {list(names)} within {tuple(bounds)}, such as "
            f"[{{{names[0]!r}: {bounds[1]}}}]. Received: starts={starts!r}"
        )
    if len(starts) >= population:
        raise ValueError(
            "The first population holds `starts` and the mean: raise `population` to at least "
            f"{len(starts) + 1}. Received: population={population}, starts={starts!r}"
        )
    return [np.array([each.get(name, 0.0) for name in names], "float64") for each in starts]


def _numbers(value: Any) -> Score:
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


def _check_request(
    names: Any,
    score: Any,
    bounds: Any,
    population: Any,
    elite: Any,
    iterations: Any,
    penalty: Any,
    seed: Any,
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
    return elites
