"""The base class of callbacks that act between two training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.methods.hyperparameters import check_seed
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.host_values import to_float64
from keras_svd_adapters.training.steps import batch_counter, batches_per_update, begin_again


@dataclass(frozen=True)
class ActiveAdapter:
    """The active adapter of one kernel.

    Args:
        path: The names of the layers from the model to the adapted one.
        method: Its `Method`.
        arrays: Its variables by name, trained and frozen ones.
        kernel: Function that returns the kernel without adapters, as a matrix in float32.
    """

    path: str
    method: Method
    arrays: dict[str, keras.Variable]
    kernel: Callable[[], Any]

    def values(self) -> SimpleNamespace:
        """Return the arrays in float64 on the host."""
        return SimpleNamespace(**{name: to_float64(v) for name, v in self.arrays.items()})

    def next_restart(self) -> int | None:
        """Return the number of the next restart, or `None` if its method has none left."""
        values, times = self.values(), range(self.method.restarts)
        return next((time for time in times if not self.method.did_restart(values, time)), None)

    def restart(self, time: int, random: np.random.Generator, optimizers: Iterable[Any]) -> None:
        """Begin again; optimizers forget what they kept of the arrays that change.

        A restart that took place already changes nothing, and draws as many random numbers.
        """
        before = self.values()
        new = self.method.restarted(before, time, random)
        if not self.method.did_restart(before, time):
            for name, value in new.items():
                begin_again(self.arrays[name], value, optimizers)


def adapter_of(site: Site, name: str) -> ActiveAdapter:
    """Return the adapter of a kernel with this name."""
    adapter = adapters_of(site.layer)[name]
    return ActiveAdapter(site.path, adapter.method, adapter.arrays, adapter.float32_kernel)


@keras.saving.register_keras_serializable("keras_svd_adapters")
class Schedule(keras.callbacks.Callback):
    """Base class of callbacks that act between training steps, such as pruning.

    A subclass overrides `due` and `on_step`. Both get the number of updates that the optimizer has
    made, so `on_step(0)` comes before the first one. A schedule has no state of its own: what it
    does follows from this number, its settings and the model. Training that stops and continues
    from a file is therefore the same as training without a break.

    On a step that is not due, the model is not touched. If Keras runs several batches at a time
    (`steps_per_execution`), a schedule acts before the next of these runs, once for the last step
    that is due.

    Args:
        seed: Integer, the seed of `random`.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> class Shrink(ksa.Schedule):
    ...     def due(self, step):
    ...         return step % 10 == 0
    ...     def on_step(self, step):
    ...         for adapter in self.adapters():
    ...             adapter.arrays["z"].assign(0.9 * adapter.arrays["z"])
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        check_seed(seed)
        self.seed = seed
        self._reached, self._epoch_start, self._acted = 0, 0, -1
        self._is_checked = False

    def due(self, step: int) -> bool:
        """Return whether the schedule acts when the optimizer has made this number of updates."""
        return True

    def on_step(self, step: int) -> None:
        """Act before the update with this number; the first update has number 0."""
        raise NotImplementedError

    @property
    def last_step(self) -> int | None:
        """The step at which the schedule is complete, or `None` if it has no end."""
        return None

    def check(self) -> None:
        """Raise `ValueError` before the first step if the schedule does not fit the model."""

    def adapters(self) -> list[ActiveAdapter]:
        """Return the adapters that train; an assignment to their arrays takes effect."""
        return [
            adapter_of(site, name)
            for site in adapted_sites(self.model)
            for name in adapters_of(site.layer)
            if name in site.layer.trained_adapters
        ]

    def random(self, step: int) -> np.random.Generator:
        """Return a generator of random numbers that depends only on the seed and the step."""
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, step], "uint64")))

    def on_train_begin(self, logs: Any = None) -> None:
        self._is_checked, self._acted = False, -1
        self._reached = self._batches()
        self.check()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._reached = self._epoch_start = self._batches()
        if not self._is_checked:
            self._is_checked = True
            self._check_length(epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._last_due(batch) is None:
            return
        # An optimizer that scales the loss skips steps, which this count does not know.
        ahead = self._reached - self._batches()
        self._reached -= ahead
        self._epoch_start -= ahead
        step = self._last_due(batch)
        if step not in (None, self._acted):
            self._acted = step
            self.on_step(step)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._reached = self._epoch_start + batch + 1

    def _last_due(self, batch: int) -> int | None:
        """Return the last due step since Keras called the schedule before this batch of an epoch.

        This follows from the number of batches alone, so that it is the same after a break.
        """
        steps, at_once = (self.params or {}).get("steps") or 0, self._at_once
        passed = at_once if batch else steps % at_once or at_once
        for before in range(self._reached, max(self._reached - passed, -1), -1):
            if before % self._gathered == 0 and self.due(before // self._gathered):
                return before // self._gathered
        return None

    def _batches(self) -> int:
        """Return the number of batches that the optimizer has seen; this touches the model."""
        model = self.model
        self._gathered = batches_per_update(model.optimizer)
        is_torch = keras.backend.backend() == "torch"  # Keras takes single steps there
        self._at_once = 1 if is_torch else getattr(model, "steps_per_execution", None) or 1
        return int(keras.ops.convert_to_numpy(batch_counter(model.optimizer)))

    def _check_length(self, epoch: int) -> None:
        params, end = self.params or {}, self.last_step
        if not params.get("steps") or end is None:
            return
        batches = self._reached + (params["epochs"] - epoch) * params["steps"]
        if end * self._gathered >= batches:  # it acts before the update with this number
            raise ValueError(
                f"`{type(self).__name__}` is longer than the training: it ends at step {end}, and "
                f"the last update of the optimizer has number {batches // self._gathered - 1}. End "
                "it earlier, or train for more epochs; an earlier stop by a callback is no "
                "obstacle. "
                f"Received: {self.get_config()}"
            )

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        return cls(**config)
