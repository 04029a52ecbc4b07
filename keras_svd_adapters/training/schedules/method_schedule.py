"""The base classes of schedules that serve a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_svd_adapters.methods.algebra import highest
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.runtime.host_values import to_float64
from keras_svd_adapters.training.rule import Rule
from keras_svd_adapters.training.rules import ruled_optimizer
from keras_svd_adapters.training.schedule import ActiveAdapter, Schedule


class MethodSchedule(Schedule):
    """Base class of schedules for the methods that name the class in `Method.schedule`.

    Class attributes:

    - `statistics`: the statistics of a rule that the schedule reads, by name of the array.
    """

    statistics: ClassVar[dict[str, tuple[str, ...]]] = {}

    def rules(self) -> list[Rule]:
        """Return the rules that the optimizer needs: `ksa.rules(optimizer, schedule.rules())`."""
        return []

    def adapters(self) -> list[ActiveAdapter]:
        names = {cls.__name__ for cls in type(self).__mro__}
        return [each for each in super().adapters() if each.method.schedule in names]

    def check(self) -> None:
        names = {cls.__name__ for cls in type(self).__mro__}
        adapters = self.adapters()
        if not adapters:
            served = [c.__name__ for c in Method.registry.values() if c.schedule in names]
            raise ValueError(
                f"`{type(self).__name__}` serves {' and '.join(served)}, and no active adapter of "
                f"the model has that method: `enable` one, or leave the schedule out. "
                f"Received: {self.model!r}"
            )
        optimizer = self.model.optimizer
        if self.statistics and not optimizer.built:  # Keras on TensorFlow builds it later
            optimizer.build(self.model.trainable_variables)
        for name, wanted in self.statistics.items():
            found = [self._statistic(each, name, kind) for each in adapters for kind in wanted]
            if any(each is None for each in found):
                raise ValueError(
                    f"`{type(self).__name__}` reads statistics that a rule of the optimizer "
                    "keeps: type `model.compile(ksa.rules(optimizer, schedule.rules()), ...)`. "
                    f"Received: optimizer={optimizer!r}, without "
                    f"{' and '.join(wanted)} of {name!r}"
                )

    def statistic(self, adapter: ActiveAdapter, name: str, kind: str) -> np.ndarray:
        """Return a statistic of an array of an adapter, in float64 on the host."""
        variable = self._statistic(adapter, name, kind)
        assert variable is not None
        return to_float64(variable)

    def _statistic(self, adapter: ActiveAdapter, name: str, kind: str) -> keras.Variable | None:
        ruled = ruled_optimizer(self.model.optimizer)
        return None if ruled is None else ruled.statistic(adapter.arrays[name], kind)


class PruningSchedule(MethodSchedule):
    """Base class of schedules that prune from one step to another, quickly at first.

    Args:
        begin: Integer, the step until which nothing is pruned.
        end: Integer, the step at which the pruning is complete.
        every: Integer, the number of steps from one pruning to the next.
        seed: Integer, the seed of `random`.
    """

    def __init__(self, begin: int, end: int, every: int = 1, seed: int = 0):
        super().__init__(seed)
        for name, value, least in (("begin", begin, 0), ("every", every, 1)):
            if type(value) is not int or value < least:
                raise ValueError(
                    f"`{name}` must be an integer from {least}. Received: {name}={value!r}"
                )
        if type(end) is not int or end <= begin:
            raise ValueError(
                f"`end` must be a later step than `begin`. Received: begin={begin}, end={end!r}"
            )
        self.begin, self.end, self.every = begin, end, every

    @property
    def last_step(self) -> int:
        return self.end

    def due(self, step: int) -> bool:
        passed = step - self.begin
        return step == self.end or (0 < passed < self.end - self.begin and not passed % self.every)

    def left(self, step: int) -> float:
        """Return the part of what is to be pruned that is still there, from 1 to 0, cubic."""
        return (1 - (step - self.begin) / (self.end - self.begin)) ** 3

    def share_left(self, share: float, step: int) -> float:
        """Return the part of the values that stays, from 1 to `share`."""
        return share + (1 - share) * self.left(step)

    def get_config(self) -> dict[str, Any]:
        own = {"begin": self.begin, "end": self.end, "every": self.every}
        return super().get_config() | own


def highest_of_all(scores: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Return a mask for each array of scores: 1 for the highest ones of all arrays, else 0."""
    kept = highest(np.concatenate([each.ravel() for each in scores]), count)
    parts = np.split(kept, np.cumsum([each.size for each in scores])[:-1])
    return [part.reshape(each.shape) for part, each in zip(parts, scores, strict=True)]


def keep_highest(
    adapter: ActiveAdapter, name: str, mask: str, axis: int, scores: np.ndarray, share: float
) -> None:
    """Leave a share of the values of each vector of an array, those with the highest scores.

    Args:
        adapter: The adapter.
        name: The trained array.
        mask: Its mask.
        axis: The axis along a vector, such as that of each rank.
        scores: The score of each value.
        share: The share that stays; at least one value does.
    """
    moved = np.moveaxis(scores, axis, -1)
    kept = highest(moved, max(1, round(share * moved.shape[-1])))
    set_mask(adapter, mask, np.moveaxis(kept, -1, axis), name)


def set_mask(adapter: ActiveAdapter, mask: str, value: np.ndarray, pruned: str) -> None:
    """Set a mask, and set what it prunes of a trained array to 0."""
    array = adapter.arrays[pruned]
    adapter.arrays[mask].assign(value.astype("float32"))
    array.assign(array * value.astype("float32"))
