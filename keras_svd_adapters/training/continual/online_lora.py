"""The schedule of OnlineLoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.methods.hyperparameters import check_positive, check_positive_integers
from keras_svd_adapters.methods.low_rank.online_lora import LONGEST_WINDOW
from keras_svd_adapters.runtime.host_values import to_float64
from keras_svd_adapters.runtime.warnings import warn
from keras_svd_adapters.training.continual.importance import importance
from keras_svd_adapters.training.continual.plateau import after_loss, from_array, to_array
from keras_svd_adapters.training.schedule import ActiveAdapter
from keras_svd_adapters.training.schedules.method_schedule import MethodSchedule

FACTORS = {"lora_a": "importance_a", "lora_b": "importance_b"}


@keras.saving.register_keras_serializable("keras_svd_adapters")
class OnlineLoRASchedule(MethodSchedule):
    """Schedule that begins a new part of `OnlineLoRA` where the loss of a stream is flat.

    After each batch it looks at the last losses. If their mean and their variance are below the
    given ones, a part of the stream is learned: its factors freeze, and new ones train. The next
    part ends after the loss has risen and is flat again. A loss is that of one batch, without the
    terms that the method adds. Samples are new in each batch, so train for one epoch.

    The last losses are a small frozen array of the adapter, so a run that stops and continues from
    a file is the same as one without a break. The samples for the importance are yours to keep.

    Args:
        mean: Float, the mean that the last losses must be below.
        variance: Float, the variance that they must be below. The paper uses 6.0 and 0.1, or 5.6
            and 0.04, on its data.
        window: Integer, the number of last losses, up to 32.
        samples: Function that returns `(x, y)`, some samples of the stream so far, such as the
            last hundred. Squared gradients on the hardest of them say which values are important.
            The model is then a classifier with one output, and its loss a cross-entropy. Without
            the function, nothing is important and the method has no term in the loss.
        hardest: Integer, the number of samples with the highest loss that count.
        seed: Integer, the seed of the new factors.

    Raises:
        ValueError: If an argument is wrong, or, before the first step, if no active adapter has
            this method.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> _ = ksa.enable(model, ksa.methods.OnlineLoRA(rank=1, tasks=3), targets="up")
    >>> model.compile(keras.optimizers.Adam(3e-4), "mse")
    >>> x, y = keras.ops.ones((24, 8)), keras.ops.ones((24, 6))
    >>> schedule = ksa.OnlineLoRASchedule(mean=0.5, variance=0.1)
    >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[schedule])

    Reference:
        - [Wei et al., 2024 (Online-LoRA)](https://arxiv.org/abs/2411.05663)
    """

    def __init__(
        self,
        mean: float,
        variance: float,
        window: int = 5,
        samples: Callable[[], tuple[Any, Any]] | None = None,
        hardest: int = 4,
        seed: int = 0,
    ):
        super().__init__(seed)
        check_positive(mean=mean, variance=variance)
        check_positive_integers(window=window, hardest=hardest)
        if window > LONGEST_WINDOW:
            raise ValueError(f"`window` must be at most {LONGEST_WINDOW}. Received: {window}")
        if samples is not None and not callable(samples):
            raise ValueError(
                "`samples` is a function without arguments that returns `(x, y)`. "
                f"Received: samples={samples!r}"
            )
        self.mean, self.variance, self.window = mean, variance, window
        self.samples, self.hardest = samples, hardest
        self._sums, self._terms = (0.0, 0.0), 0.0

    def check(self) -> None:
        super().check()
        loss = getattr(self.model, "loss", None)
        if self.samples is not None and not (isinstance(loss, str) or callable(loss)):
            raise ValueError(
                "The importance of values needs a model that is compiled with one loss: leave "
                f"`samples` out, or use such a model. Received: loss={loss!r}"
            )

    def due(self, step: int) -> bool:
        return False  # it acts after batches, when their loss is known

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._sums = (0.0, 0.0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_begin(batch, logs)
        arrays = [array for each in self.adapters() for array in each.arrays.values()]
        terms = [array.regularizer(array) for array in arrays if array.regularizer is not None]
        self._terms = float(to_float64(sum(terms)))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, logs)
        adapters = self.adapters()
        stored = to_float64(adapters[0].arrays["stream"])
        size = stored.shape[-1]
        before = from_array(stored.reshape(-1, size)[0])
        limits = self.window, self.mean, self.variance
        stream, is_plateau = after_loss(before, self._loss_of_batch(), *limits)
        if is_plateau:
            self._begin_part(adapters, before.plateaus)
        for each in adapters:
            array = each.arrays["stream"]
            array.assign(np.broadcast_to(to_array(stream, size), array.shape))

    def _loss_of_batch(self) -> float:
        metric = next(each for each in self.model.metrics if each.name == "loss")
        now = float(to_float64(metric.total)), float(to_float64(metric.count))
        before, self._sums = self._sums, now
        return (now[0] - before[0]) / (now[1] - before[1]) - self._terms

    def _begin_part(self, adapters: list[ActiveAdapter], plateaus: int) -> None:
        times = [each.next_restart() for each in adapters]
        left = [time for time in times if time is not None]
        if len(left) < len(times):
            warn(
                "The stream has more parts than the adapter has `tasks`: the last part goes on. "
                f"Received: {adapters[times.index(None)].method}"
            )
            return
        if self.samples is not None:
            self._update_importance(adapters, plateaus)
        random = self.random(plateaus)
        for each, time in zip(adapters, left, strict=True):
            each.restart(time, random, [self.model.optimizer])

    def _update_importance(self, adapters: list[ActiveAdapter], plateaus: int) -> None:
        arrays = [(each.arrays[k], each.arrays[f]) for each in adapters for k, f in FACTORS.items()]
        x, y = self.samples()  # type: ignore[misc]
        new = importance(self.model, [trained for trained, _ in arrays], x, y, self.hardest)
        for (_, mean), square in zip(arrays, new, strict=True):
            value = (plateaus * to_float64(mean) + square) / (plateaus + 1)
            mean.assign(value.astype("float32"))

    def get_config(self) -> dict[str, Any]:
        own = {"mean": self.mean, "variance": self.variance, "window": self.window}
        return super().get_config() | own | {"hardest": self.hardest}
