"""The schedule of AFLoRA."""

from __future__ import annotations

from typing import ClassVar

import keras
import numpy as np

from keras_svd_adapters.runtime.host_values import to_float64
from keras_svd_adapters.training.rule import Rule
from keras_svd_adapters.training.schedules.method_schedule import PruningSchedule, highest_of_all
from keras_svd_adapters.training.sensitivity import Sensitivity
from keras_svd_adapters.training.steps import state_of

READ = ("sensitivity", "uncertainty")
PARTS = {"lora_a": "mask_a", "lora_b": "mask_b"}


@keras.saving.register_keras_serializable("keras_svd_adapters")
class AFLoRASchedule(PruningSchedule):
    """Schedule that freezes the matrices of `AFLoRA` one by one, those with the lowest score first.

    The score of a matrix is the mean, over its values, of the running mean of `|w g|` times that
    of its uncertainty. The part that is frozen rises from 0 at `begin` to 1 at `end`, quickly at
    first. What is frozen stays frozen, also when the adapter is saved and loaded.

    Args:
        begin: Integer, the step until which all matrices train.
        end: Integer, the step from which only the vectors train.
        every: Integer, the number of steps from one choice to the next.
        seed: Integer, not used.

    Raises:
        ValueError: If an argument is wrong, or, before the first step, if no active adapter has
            this method, the optimizer lacks the rule, or training ends before `end`.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> _ = ksa.enable(model, ksa.methods.AFLoRA(rank=2), targets="up")
    >>> schedule = ksa.AFLoRASchedule(begin=2, end=6)
    >>> model.compile(ksa.rules(keras.optimizers.Adam(3e-3), schedule.rules()), "mse")
    >>> x, y = keras.ops.ones((16, 8)), keras.ops.ones((16, 6))
    >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[schedule])

    Reference:
        - [Liu et al., 2024](https://arxiv.org/abs/2403.13269)
    """

    statistics: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(PARTS, READ)

    def rules(self) -> list[Rule]:
        return [Sensitivity([f"*/{name}" for name in PARTS], decay=0.85, uncertainty=0.85)]

    def on_step(self, step: int) -> None:
        parts, scores = [], []
        for adapter in self.adapters():
            for name, mask in PARTS.items():
                kept = [self.statistic(adapter, name, kind) for kind in READ]
                score = np.multiply(*kept).mean(axis=(-2, -1))  # a number, or one of each expert
                trains = to_float64(adapter.arrays[mask]).reshape(score.shape) > 0
                parts.append((adapter.arrays[name], adapter.arrays[mask]))
                scores.append(np.where(trains, -score, 1.0))  # the highest ones freeze
        count = int(sum(each.size for each in scores) * (1 - self.left(step)) + 1e-9)
        for (array, mask), frozen in zip(parts, highest_of_all(scores, count), strict=True):
            value: np.ndarray = (1 - frozen).astype("float32")
            mask.assign(value.reshape(mask.shape))
            stays = value.reshape((*mask.shape[:-1], 1, 1)) if len(mask.shape) > 1 else value
            for slot in state_of(self.model.optimizer, array):
                slot.assign(slot * stays)  # else the momentum would move it on
