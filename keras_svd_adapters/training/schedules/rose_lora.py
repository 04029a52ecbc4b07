"""The schedule of RoseLoRA."""

from __future__ import annotations

from typing import ClassVar

import keras

from keras_svd_adapters.training.rule import Rule
from keras_svd_adapters.training.schedules.method_schedule import PruningSchedule, keep_highest
from keras_svd_adapters.training.sensitivity import Sensitivity

PARTS = {"lora_a": ("mask_a", -2), "lora_b": ("mask_b", -1)}  # the axis along a rank's vector


@keras.saving.register_keras_serializable("keras_svd_adapters")
class RoseLoRASchedule(PruningSchedule):
    """Schedule that prunes the vectors of each rank of `RoseLoRA`, to the method's `share`.

    Each column of `A` and each row of `B` keeps the values with the highest running mean of
    `|w g|`. The part that stays falls from 1 at `begin` to `share` at `end`; from then on, the
    masks stay.

    Args:
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
    >>> _ = ksa.enable(model, ksa.methods.RoseLoRA(rank=2, share=0.5), targets="up")
    >>> schedule = ksa.RoseLoRASchedule(begin=2, end=6)
    >>> model.compile(ksa.rules(keras.optimizers.Adam(1e-3), schedule.rules()), "mse")
    >>> x, y = keras.ops.ones((16, 8)), keras.ops.ones((16, 6))
    >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[schedule])

    Reference:
        - [Wang et al., 2024](https://arxiv.org/abs/2406.10777)
    """

    statistics: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(PARTS, ("sensitivity",))

    def rules(self) -> list[Rule]:
        return [Sensitivity([f"*/{name}" for name in PARTS], decay=0.8)]

    def on_step(self, step: int) -> None:
        for adapter in self.adapters():
            share = self.share_left(adapter.method.share, step)  # type: ignore[attr-defined]
            for name, (mask, axis) in PARTS.items():
                scores = self.statistic(adapter, name, "sensitivity")
                keep_highest(adapter, name, mask, axis, scores, share)
