"""JaggedCosine: a cosine that restarts with a short warm-up, for adapters that restart."""

from __future__ import annotations

from math import pi
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.methods.hyperparameters import check_positive_integers


@keras.saving.register_keras_serializable("keras_svd_adapters")
class JaggedCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine decay that warms up again after each restart of an adapter.

    The rate falls by a cosine from `learning_rate` to `floor * learning_rate`. In
    the `warmup` steps after the start and after each multiple of `every`, it
    rises in a line to the current value of the cosine. No step has a rate of 0.

    Args:
        learning_rate: Float, the highest rate.
        steps: Integer, the number of steps of training.
        every: Integer, the number of steps between two restarts.
        warmup: Integer, the number of steps of each rise.
        floor: Float in [0, 1], the last rate as a part of the highest.

    Raises:
        ValueError: If a number of steps is not positive, if `every` exceeds
            `steps`, if `warmup` reaches `every`, or if `floor` is out of range.

    Example:

    >>> schedule = keras_svd_adapters.JaggedCosine(1e-3, steps=400, every=100, warmup=10)
    >>> [round(float(schedule(step)), 6) for step in (0, 9, 99, 100, 104)]
    [0.0001, 0.000999, 0.000871, 8.7e-05, 0.000429]

    Reference:
        - [Lialin et al., 2023](https://arxiv.org/abs/2307.05695)
    """

    def __init__(
        self, learning_rate: float, steps: int, every: int, warmup: int = 10, floor: float = 0.1
    ):
        check_positive_integers(steps=steps, every=every, warmup=warmup)
        if every > steps:
            raise ValueError(
                f"A restart after {every} steps comes after the last step: use `every={steps}` or "
                f"less. Received: steps={steps}, every={every}"
            )
        if warmup >= every:
            raise ValueError(
                "The warm-up must end before the next restart: use a smaller `warmup`. "
                f"Received: every={every}, warmup={warmup}"
            )
        if not 0 <= floor <= 1:
            raise ValueError(f"`floor` must be in [0, 1]. Received: floor={floor!r}")
        self.learning_rate, self.steps, self.every = learning_rate, steps, every
        self.warmup, self.floor = warmup, floor

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        part = ops.minimum(step / self.steps, 1.0)
        cosine = self.floor + (1 - self.floor) * 0.5 * (1 + ops.cos(pi * part))
        rise = ops.minimum((step % self.every + 1) / self.warmup, 1.0)
        return self.learning_rate * cosine * rise

    def get_config(self) -> dict[str, Any]:
        names = ("learning_rate", "steps", "every", "warmup", "floor")
        return {name: getattr(self, name) for name in names}
