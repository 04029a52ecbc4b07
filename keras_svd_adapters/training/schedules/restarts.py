"""The schedule of adapters that restart."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_svd_adapters.methods.hyperparameters import check_positive_integers, check_share
from keras_svd_adapters.training.schedules.method_schedule import MethodSchedule


@keras.saving.register_keras_serializable("keras_svd_adapters")
class Restarts(MethodSchedule):
    """Schedule that restarts the adapters of `RestartedLoRA`, or starts the one of `DeltaLoRA`.

    A restart leaves the function of the model as it is, up to rounding. The optimizer forgets the
    state of the arrays that it draws again. Adam's first steps after that are up to three times as
    long as its others, so give the optimizer a `JaggedCosine` with the same `every`.

    Args:
        every: Integer, the number of steps between two restarts. The last one is number
            `method.restarts`.
        share: Float in (0, 1], the part of the kernels that train between two restarts, drawn
            each time (XGBLoRA). The others wait.
        seed: Integer, the seed of the new factors and of the chosen kernels.

    Raises:
        ValueError: If an argument is wrong, or, before the first step, if no active adapter has
            such a method, if it has restarted with another optimizer, or if training ends before
            the last restart.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> method = ksa.methods.RestartedLoRA(rank=1, restarts=2)
    >>> _ = ksa.enable(model, method, targets="up")
    >>> rate = ksa.JaggedCosine(3e-3, steps=12, every=4, warmup=1)
    >>> model.compile(keras.optimizers.Adam(rate), "mse")
    >>> x, y = keras.ops.ones((24, 8)), keras.ops.ones((24, 6))
    >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[ksa.Restarts(every=4)])

    Reference:
        - [Lialin et al., 2023 (ReLoRA)](https://arxiv.org/abs/2307.05695)
    """

    def __init__(self, every: int, share: float = 1.0, seed: int = 0):
        super().__init__(seed)
        check_positive_integers(every=every)
        check_share(share=share)
        self.every, self.share = every, share
        self._restarts = 0

    def check(self) -> None:
        super().check()
        adapters = self.adapters()
        self._restarts = max(each.method.restarts for each in adapters)
        step = self._reached // self._gathered
        for adapter in adapters:
            method = adapter.method
            coming = [i for i in range(method.restarts) if (i + 1) * self.every > step]
            if any(method.did_restart(adapter.values(), time) for time in coming):
                raise ValueError(
                    "This adapter has restarted before, and another restart would overwrite what "
                    "it learned: continue with the optimizer of that training, as `model.save` "
                    f"stores it, or leave the schedule out. Received: `{adapter.path}`, at step "
                    f"{step} of the optimizer"
                )
        without = [each.path for each in adapters if "mask" not in each.arrays]
        if self.share < 1 and without:
            raise ValueError(
                "Kernels can wait only if their method has a mask, such as `RestartedLoRA`: use "
                f"`share=1`. Received: share={self.share}, without a mask: {without[0]!r}"
            )

    @property
    def last_step(self) -> int:
        return self.every * self._restarts

    def due(self, step: int) -> bool:
        is_first = step == 0 and self.share < 1
        return is_first or (0 < step <= self.last_step and not step % self.every)

    def on_step(self, step: int) -> None:
        adapters, random = self.adapters(), self.random(step)
        time = step // self.every - 1
        adapters = [each for each in adapters if time < each.method.restarts]
        for adapter in adapters if time >= 0 else ():
            adapter.restart(time, random, [self.model.optimizer])
        if self.share < 1:
            count = max(1, round(self.share * len(adapters)))
            chosen = set(random.permutation(len(adapters))[:count].tolist())
            for place, adapter in enumerate(adapters):
                mask = adapter.arrays["mask"]
                mask.assign(np.full(mask.shape, float(place in chosen), "float32"))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"every": self.every, "share": self.share}
