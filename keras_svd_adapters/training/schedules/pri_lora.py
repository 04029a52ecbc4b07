"""The schedule of PRILoRA."""

from __future__ import annotations

import keras
import numpy as np

from keras_svd_adapters.training.schedules.method_schedule import PruningSchedule, keep_highest


@keras.saving.register_keras_serializable("keras_svd_adapters")
class PRILoRASchedule(PruningSchedule):
    """Schedule that prunes `A` of `PRILoRA`, to the method's `share`.

    Each column of `A` keeps the values with the highest `|w|` times the norm of their input. The
    part that stays falls from 1 at `begin` to `share` at `end`; from then on, the mask stays. What
    is pruned stays off.

    Args:
        begin: Integer, the step until which nothing is pruned.
        end: Integer, the step at which the pruning is complete.
        every: Integer, the number of steps from one pruning to the next.
        seed: Integer, not used.

    Raises:
        ValueError: If an argument is wrong, or, before the first step, if no active adapter has
            this method, or training ends before `end`.

    Example:

    >>> import keras, numpy as np, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> x, y = np.ones((16, 8)), np.ones((16, 6))
    >>> _ = ksa.enable(model, ksa.methods.PRILoRA(rank=2), targets="up", calibrate=x)
    >>> model.compile(keras.optimizers.Adam(1e-3), "mse")
    >>> schedule = ksa.PRILoRASchedule(begin=2, end=6, every=2)
    >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[schedule])

    Reference:
        - [Benedek and Wolf, 2024](https://arxiv.org/abs/2401.11316)
    """

    def __init__(self, begin: int, end: int, every: int = 40, seed: int = 0):
        super().__init__(begin, end, every, seed)

    def on_step(self, step: int) -> None:
        for adapter in self.adapters():
            v = adapter.values()
            share = self.share_left(adapter.method.share, step)  # type: ignore[attr-defined]
            scores = np.abs(v.lora_a * v.mask_a) * v.input_norms[..., None]
            keep_highest(adapter, "lora_a", "mask_a", -2, scores, share)
