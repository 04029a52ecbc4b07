"""The cross-entropy method: a search without gradients, the same for each seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

Score = tuple[float, ...]


class Found(NamedTuple):
    """The best point after an iteration of a search.

    Args:
        point: The point.
        score: Its score.
        spread: Standard deviation of the best members of the iteration, in each direction.
    """

    point: np.ndarray
    score: Score
    spread: np.ndarray


def cross_entropy_search(
    score: Callable[[np.ndarray], Score],
    mean: np.ndarray,
    spread: np.ndarray,
    bounds: tuple[float, float],
    population: int,
    elites: int,
    iterations: int,
    seed: int,
    candidates: Sequence[np.ndarray] = (),
) -> Iterator[Found]:
    """Yield the best point so far, after each iteration.

    Each iteration draws a population from a normal distribution and clips it to the bounds. The
    mean and the standard deviation of its best members are those of the next one. Member 0 is the
    best point so far, which is not scored again. The first population holds the mean and the
    `candidates`, so that no result is worse than one of them.

    Args:
        score: Returns the score of a point; a larger one is better. Further numbers decide ties.
        mean: The first mean.
        spread: The first standard deviation in each direction.
        bounds: The smallest and the largest number of a point.
        population: Number of members.
        elites: Number of best members, at least 2.
        iterations: Number of iterations.
        seed: Seed of the random numbers.
        candidates: Points that the first population holds; fewer than its members.
    """
    random = np.random.Generator(np.random.Philox(key=np.array([seed, 0], "uint64")))
    kept = [np.clip(each, *bounds) for each in (mean, *candidates)]
    scores = [score(each) for each in kept]
    for _ in range(iterations):
        drawn = mean + spread * random.standard_normal((population - len(kept), len(mean)))
        members = [*kept, *np.clip(drawn, *bounds)]
        scores += map(score, members[len(kept) :])
        order = sorted(range(population), key=lambda i: scores[i], reverse=True)
        kept, scores = [members[order[0]]], [scores[order[0]]]
        chosen = np.stack([members[i] for i in order[:elites]])
        mean, spread = chosen.mean(axis=0), chosen.std(axis=0, ddof=1)
        yield Found(kept[0], scores[0], spread)
