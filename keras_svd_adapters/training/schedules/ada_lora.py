"""The schedule of AdaLoRA."""

from __future__ import annotations

from typing import ClassVar

import keras
import numpy as np

from keras_svd_adapters.training.rule import Rule
from keras_svd_adapters.training.schedule import ActiveAdapter
from keras_svd_adapters.training.schedules.budget import BudgetSchedule
from keras_svd_adapters.training.sensitivity import Sensitivity

PARTS = ("gate", "lora_a", "lora_b")
READ = ("sensitivity", "uncertainty")


@keras.saving.register_keras_serializable("keras_svd_adapters")
class AdaLoRASchedule(BudgetSchedule):
    """Schedule that prunes the ranks of `AdaLoRA` to a budget for all kernels together.

    The score of a rank is that of its gate, plus the means of those of its column of `A` and its
    row of `B`. The score of a value is the running mean of `|w g|` times that of its uncertainty.
    The budget falls from all ranks at `begin` to `rank` per kernel at `end`. A rank that is off
    gets no gradient, so that its score falls; from `end` on, the masks stay.

    Args:
        rank: Number, the ranks that a kernel keeps at the end, on average.
        begin: Integer, the step until which nothing is pruned.
        end: Integer, the step at which the pruning is complete.
        every: Integer, the number of steps from one pruning to the next.
        seed: Integer, not used.

    Raises:
        ValueError: If an argument is wrong, or, before the first step, if no active adapter has
            this method, the optimizer lacks the rule, or training ends before `end`.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> _ = ksa.enable(model, ksa.methods.AdaLoRA(rank=4), targets="up")
    >>> schedule = ksa.AdaLoRASchedule(rank=2, begin=2, end=6, every=2)
    >>> model.compile(ksa.rules(keras.optimizers.Adam(1e-3), schedule.rules()), "mse")
    >>> x, y = keras.ops.ones((16, 8)), keras.ops.ones((16, 6))
    >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[schedule])

    Reference:
        - [Zhang et al., 2023](https://arxiv.org/abs/2303.10512)
    """

    statistics: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(PARTS, READ)

    def rules(self) -> list[Rule]:
        patterns = [f"*/{name}" for name in self.statistics]
        return [Sensitivity(patterns, decay=0.85, uncertainty=0.85)]

    def scores(self, adapter: ActiveAdapter) -> np.ndarray:
        gate, a, b = (
            np.multiply(*(self.statistic(adapter, name, kind) for kind in READ))
            for name in self.statistics
        )
        scores: np.ndarray = gate + a.mean(axis=-2) + b.mean(axis=-1)
        return scores
