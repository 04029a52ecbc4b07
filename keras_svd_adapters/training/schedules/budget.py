"""The base class of schedules that leave a number of ranks to all kernels together."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_svd_adapters.training.schedule import ActiveAdapter
from keras_svd_adapters.training.schedules.method_schedule import (
    PruningSchedule,
    highest,
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
        masks = [adapter.arrays["mask"] for adapter in self.adapters()]
        ranks = sum(int(np.prod(mask.shape)) for mask in masks)
        if not 1 <= self._target(masks) <= ranks:
            raise ValueError(
                f"The model has {ranks} ranks in {self._kernels(masks)} kernels: choose a `rank` "
                f"from {1 / self._kernels(masks):.2g} to {ranks / self._kernels(masks):g}. "
                f"Received: rank={self.rank}"
            )

    def budget(self, step: int) -> int:
        """Return the number of ranks that all kernels together keep at a step."""
        masks = [adapter.arrays["mask"] for adapter in self.adapters()]
        target, ranks = self._target(masks), sum(int(np.prod(mask.shape)) for mask in masks)
        return int(target + (ranks - target) * self.left(step))

    def on_step(self, step: int) -> None:
        adapters = self.adapters()
        scores = [self.scores(adapter) for adapter in adapters]
        kept = highest(np.concatenate([each.ravel() for each in scores]), self.budget(step))
        ends = np.cumsum([each.size for each in scores])[:-1]
        for adapter, each, mask in zip(adapters, scores, np.split(kept, ends), strict=True):
            set_mask(adapter, "mask", mask.reshape(each.shape), "gate")

    def _target(self, masks: list[Any]) -> int:
        return round(self.rank * self._kernels(masks))

    def _kernels(self, masks: list[Any]) -> int:
        return sum(int(np.prod(mask.shape[:-1])) for mask in masks)

    def get_config(self) -> dict[str, Any]:
        return {"rank": self.rank, **super().get_config()}
