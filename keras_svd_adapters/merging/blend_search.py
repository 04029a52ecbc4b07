"""Search for the weights of several adapters by a score of a few examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.blend_request import check_request, numbers_of, points_of
from keras_svd_adapters.merging.combining.combine import combine, new_adapters
from keras_svd_adapters.merging.combining.combine_request import CombineRequest
from keras_svd_adapters.merging.combining.factor_sum import FactorSum
from keras_svd_adapters.merging.cross_entropy import Score, cross_entropy_search
from keras_svd_adapters.merging.new_adapters import arrays_of_lora
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.switching import (
    delete_adapter,
    restore_switch_on_error,
    set_adapter,
)
from keras_svd_adapters.runtime.tables import Bars, Table, TableReport

SUMS = {"exact": "the sum of the changes", "factors": "the product of the sums of factors"}


@dataclass(frozen=True, repr=False)
class BlendSearch(TableReport):
    """The best weights of a search, which are active afterwards. Printing it shows a table.

    Args:
        weights: The weight of each adapter.
        score: The score of these weights, without the penalty.
        history: The best score after each iteration, less the penalty.
        spread: Standard deviation of each weight among the best members of the last iteration; 0
            if the search has converged.
        how: What was summed: `"exact"` for the changes of the kernels, `"factors"` for A and B.
        combined: The report of `combine`, if the search made an adapter.
    """

    weights: dict[str, float]
    score: float
    history: tuple[float, ...] = field(repr=False)
    spread: dict[str, float] = field(repr=False)
    how: str = "exact"
    combined: Approximation | None = field(default=None, repr=False)

    def as_table(self) -> Table:
        rows = [
            (name, f"{weight:.3g}", f"{self.spread[name]:.2g}")
            for name, weight in self.weights.items()
        ]
        notes = f"score {self.score:.4g} of {SUMS[self.how]}, after {len(self.history)} iterations"
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
    how: str = "exact",
    start: float | None = None,
    candidates: Sequence[Mapping[str, float]] = (),
) -> BlendSearch:
    """Search the weights of several adapters that score best, without gradients.

    The cross-entropy method draws weights around a mean, and moves the mean to the best ones. The
    search sets the weights as `set_adapter(model, {...})` does, so nothing is traced again. The
    same seed and scores give the same weights. The model sums the changes of the kernels, so a
    weight of 1 is that adapter. With `how="factors"`, it sums the factors of LoRAs, as LoRAHub
    does: `(sum w_i A_i) (sum w_i B_i)` has products of one adapter's A and another one's B.

    Args:
        model: A model with adapters.
        names: Names of the adapters. Their order has no effect on the sum.
        score: Function of the model that returns a number, such as the accuracy on
            some examples; larger is better. Or it returns a tuple: later numbers, such as a
            mean log likelihood, decide between equal first ones. NaN is worse than any number.
        into: Name of a new adapter with the best blend, made by `combine`. Without it, the
            adapters stay active with their best weights, frozen. `how="factors"` needs it.
        bounds: The smallest and the largest weight. LoRAHub uses `(-1.5, 1.5)`.
        population: Number of weights that each iteration scores.
        elite: Share of these that the next iteration is drawn around.
        iterations: Number of iterations.
        penalty: Subtracted from the score, times the mean size of the weights. LoRAHub
            uses 0.05.
        seed: Seed of the random numbers.
        how: `"exact"` sums the changes of the kernels, of any methods. `"factors"` sums A and B
            of LoRAs of one rank.
        start: The weight that the search starts from, for all adapters; one over their
            number if `None`. LoRAHub starts from 0.
        candidates: List of weights, such as `[{"a": 1.0}, {"b": 1.0}]`, among the first population.
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
    elites = check_request(
        names, score, bounds, population, elite, iterations, penalty, seed, how, start, into
    )
    points = points_of(candidates, names, bounds, population)
    for name in names:
        require_adapter(model, name)
    if into is not None:
        check_combination(model, names, into, how)
    require_values(model, f"search_blend({list(names)})")
    half = (bounds[1] - bounds[0]) / 2
    mean = np.full(len(names), 1 / len(names) if start is None else start)
    spread = np.full(len(names), half)
    history = []
    with restore_switch_on_error(model):
        with _blended(model, names, into, how) as assign:

            def scored(point: np.ndarray) -> Score:
                assign(_named(names, point))
                value = numbers_of(score(model))
                return (value[0] - penalty * float(np.abs(point).mean()), *value[1:])

            for found in cross_entropy_search(
                scored, mean, spread, bounds, population, elites, iterations, seed, points
            ):
                history.append(found.score[0])
            best = _named(names, found.point)
            assign(best)
        combined = None if into is None else combine(model, best, into, how)
    plain = found.score[0] + penalty * float(np.abs(found.point).mean())
    spreads = _named(names, found.spread)
    return BlendSearch(best, plain, tuple(history), spreads, how, combined)


@contextmanager
def _blended(
    model: keras.layers.Layer, names: Sequence[str], into: str | None, how: str
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Context manager: a function that gives the model other weights; nothing is traced again."""
    if how == "exact":
        yield partial(set_adapter, model)
        return
    assert into is not None
    combine(model, dict.fromkeys(names, 0.0), into, how)
    try:
        sums = {site: FactorSum(site, names) for site in adapted_sites(model, into)}

        def assign(weights: Mapping[str, float]) -> None:
            for site, each in sums.items():
                arrays = adapters_of(site.layer)[into].arrays
                for name, value in arrays_of_lora(site, each.factors_for(weights)).items():
                    arrays[name].assign(value)

        yield assign
    finally:
        delete_adapter(model, into)


def check_combination(
    model: keras.layers.Layer, names: Sequence[str], into: str, how: str = "exact"
) -> None:
    """Raise an error, before the search, if `combine` could not make the new adapter."""
    new_adapters(model, CombineRequest(dict.fromkeys(names, 1.0), how, *[None] * 4), into)


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
