"""The base class of schedules that leave a number of ranks to all kernels together."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from keras_svd_adapters.training.schedule import ActiveAdapter
from keras_svd_adapters.training.schedules.method_schedule import (
    PruningSchedule,
    highest_of_all,
    set_mask,
)


class BudgetSchedule(PruningSchedule):
    """Base class of schedules that keep the ranks with the highest scores of the whole model.

    Args:
        rank: Number, the ranks that a kernel keeps at the end, on average.
        begin: Integer, the step until which nothing is pruned.
        end: Integer, the step at which the pruning is complete.
        every: Integer, the number of steps from one pruning to the next.
        seed: Integer, the seed of `random`.
    """

    def __init__(self, rank: float, begin: int, end: int, every: int = 10, seed: int = 0):
        super().__init__(begin, end, every, seed)
        is_number = isinstance(rank, int | float) and not isinstance(rank, bool)
        if not is_number or not 0 < rank < float("inf"):
            raise ValueError(f"`rank` must be a positive number. Received: rank={rank!r}")
        self.rank = rank

    def scores(self, adapter: ActiveAdapter) -> np.ndarray:
        """Return the score of each rank of an adapter."""
        raise NotImplementedError

    def check(self) -> None:
        super().check()
        kernels, ranks = _sizes(self.adapters())
        if not 1 <= round(self.rank * kernels) <= ranks:
            raise ValueError(
                f"The model has {ranks} ranks in {kernels} kernels: choose a `rank` "
                f"from {1 / kernels:.2g} to {ranks / kernels:g}. "
                f"Received: rank={self.rank}"
            )

    def on_step(self, step: int) -> None:
        adapters = self.adapters()
        kernels, ranks = _sizes(adapters)
        target = round(self.rank * kernels)
        budget = int(target + (ranks - target) * self.left(step))
        masks = highest_of_all([self.scores(adapter) for adapter in adapters], budget)
        for adapter, mask in zip(adapters, masks, strict=True):
            set_mask(adapter, "mask", mask, "gate")

    def get_config(self) -> dict[str, Any]:
        return {"rank": self.rank, **super().get_config()}


def _sizes(adapters: list[ActiveAdapter]) -> tuple[int, int]:
    """Return the number of kernels, and the number of their ranks."""
    shapes = [adapter.arrays["mask"].shape for adapter in adapters]
    return sum(prod(shape[:-1]) for shape in shapes), sum(map(prod, shapes))
