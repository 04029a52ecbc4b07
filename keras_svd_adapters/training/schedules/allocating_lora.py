"""The schedule of AllocatingLoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.models.batches import is_dataset
from keras_svd_adapters.models.observation.batches import as_tensors
from keras_svd_adapters.runtime.gradients import compiled_loss
from keras_svd_adapters.runtime.host_values import to_float64
from keras_svd_adapters.training.batches import training_batches
from keras_svd_adapters.training.schedule import ActiveAdapter
from keras_svd_adapters.training.schedules.method_schedule import PruningSchedule, set_mask
from keras_svd_adapters.training.steps import begin_again

Rows = list[np.ndarray]  # a number for each rank of each kernel


@keras.saving.register_keras_serializable("keras_svd_adapters")
class AllocatingLoRASchedule(PruningSchedule):
    """Schedule that moves ranks of `AllocatingLoRA` from kernels that need them less to others.

    The score of a rank is the loss without it, less the loss with no other rank, on one batch of
    validation data. Each round turns off the ranks with the lowest scores. Kernels that lose none
    of theirs get as many new ones, in turn, from the kernel with the highest mean score on. The
    number of ranks of the model stays the same. A new rank starts as LoRA does, so that the
    function of the model stays as it is.

    A round computes the loss of the batch twice for each rank that is on.

    Args:
        data: A tuple `(x, y)` or `(x, y, sample_weight)` of validation data, which is one batch,
            or a dataset, whose first batch is read. The paper uses 32 samples.
        begin: Integer, the step after which the rounds begin.
        end: Integer, the step of the last round.
        every: Integer, the number of steps from one round to the next.
        count: Integer, the number of ranks that a round moves at the most.
        seed: Integer, the seed of the new ranks.

    Raises:
        ValueError: If an argument is wrong, or, before the first step, if no active adapter has
            this method, no kernel has a spare rank, or training ends before `end`.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(6)])
    >>> _ = ksa.enable(model, ksa.methods.AllocatingLoRA(rank=2, spare=1), targets="all")
    >>> x, y = keras.ops.ones((16, 8)), keras.ops.ones((16, 6))
    >>> schedule = ksa.AllocatingLoRASchedule((x, y), begin=2, end=6, every=2, count=1)
    >>> model.compile(keras.optimizers.Adam(3e-3), "mse")
    >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[schedule])

    Reference:
        - [Liu et al., 2024](https://arxiv.org/abs/2403.16187)
    """

    def __init__(
        self, data: Any, begin: int, end: int, every: int = 100, count: int = 8, seed: int = 0
    ):
        super().__init__(begin, end, every, seed)
        check_positive_integers(count=count)
        self.count = count
        self._batch: Any = None if data is None else _first_batch(data)

    def check(self) -> None:
        super().check()
        problem = None
        if self._batch is None:
            problem = "its configuration holds no data: make it again, with `data=(x, y)`"
        elif not any(each.method.spare for each in self.adapters()):  # type: ignore[attr-defined]
            problem = "no kernel has a rank to spare: give the method `spare=`, such as its `rank`"
        if problem:
            raise ValueError(
                f"`{type(self).__name__}` cannot move ranks, since {problem}. "
                f"Received: {self.adapters()[0].method}"
            )
        model, batch = self.model, as_tensors(self.model, self._batch)

        def loss() -> Any:
            x, y, weight = batch
            return model.compute_loss(x, y, model(x, training=False), weight)

        self._loss = compiled_loss(loss, model.variables)

    def on_step(self, step: int) -> None:
        adapters = self.adapters()
        before = [to_float64(each.arrays["mask"]) for each in adapters]
        after = reallocated(rows_of(before), rows_of(self._scores(adapters, before)), self.count)
        random = self.random(step)
        for adapter, mask in zip(adapters, before, strict=True):
            kernels = mask.reshape(-1, mask.shape[-1])
            new = np.stack([after.pop(0) for _ in kernels]).reshape(mask.shape)
            if np.any(new != mask):
                set_mask(adapter, "mask", new, "gate")
            if np.any(new > mask):
                self._start(adapter, new > mask, random)

    def _scores(self, adapters: list[ActiveAdapter], masks: Rows) -> Rows:
        """Return the score of each rank that is on, and 0 for the others."""
        zeros = [np.zeros(mask.shape) for mask in masks]
        try:
            without = self._losses(adapters, masks, masks, lambda mask, one: mask - one)
            alone = self._losses(adapters, masks, zeros, lambda mask, one: one)
        finally:
            _put(adapters, masks)
        return [one - other for one, other in zip(without, alone, strict=True)]

    def _losses(
        self,
        adapters: list[ActiveAdapter],
        masks: Rows,
        others: Rows,
        own: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> Rows:
        """Return the loss for each rank that is on, 0 for those that are off.

        Its kernel has the mask that `own` makes of its mask and of that of the rank alone. All
        other kernels have the masks `others`.
        """
        losses = [np.zeros(mask.shape) for mask in masks]
        _put(adapters, others)
        for loss, mask, adapter, other in zip(losses, masks, adapters, others, strict=True):
            for place in zip(*np.nonzero(mask), strict=True):
                one = np.zeros(mask.shape)
                one[place] = 1.0
                _put([adapter], [own(mask, one)])
                loss[place] = self._loss()
            _put([adapter], [other])
        return losses

    def _start(self, adapter: ActiveAdapter, new: np.ndarray, random: np.random.Generator) -> None:
        """Start ranks as the method does."""
        v = adapter.values()
        of_a, of_b = new[..., None, :], new[..., :, None]
        starts = {
            "lora_a": (np.where(of_a, kaiming(random, v.lora_a.shape), v.lora_a), of_a),
            "gate": (np.where(new, 1.0, v.gate), new),
            "lora_b": (np.where(of_b, 0.0, v.lora_b), of_b),
        }
        for name, (value, where) in starts.items():
            begin_again(adapter.arrays[name], value, [self.model.optimizer], where)

    def get_config(self) -> dict[str, Any]:
        return {"data": None, **super().get_config(), "count": self.count}


def _put(adapters: list[ActiveAdapter], masks: Rows) -> None:
    for adapter, mask in zip(adapters, masks, strict=True):
        adapter.arrays["mask"].assign(mask.astype("float32"))


def rows_of(arrays: Rows) -> Rows:
    """Return the numbers of each kernel; an array may hold several."""
    return [row for array in arrays for row in array.reshape(-1, array.shape[-1])]


def reallocated(masks: Rows, scores: Rows, count: int) -> Rows:
    """Return the masks after a round: ranks with the lowest scores are off, as many others on."""
    places = [(kernel, rank) for kernel, mask in enumerate(masks) for rank in np.flatnonzero(mask)]
    places.sort(key=lambda place: scores[place[0]][place[1]])
    means = [score[mask > 0].mean() if mask.any() else 0.0 for score, mask in zip(scores, masks)]
    by_need = sorted((k for k, mask in enumerate(masks) if mask.any()), key=lambda k: -means[k])
    for number in range(min(count, len(places)), 0, -1):
        lowest = places[:number]
        keep = [k for k in by_need if k not in {kernel for kernel, _ in lowest}]
        spare = [[(k, rank) for rank in np.flatnonzero(masks[k] == 0)] for k in keep]
        in_turn = [each[i] for i in range(number) for each in spare if i < len(each)]
        if len(in_turn) >= number:
            result = [mask.copy() for mask in masks]
            for places_of, value in ((lowest, 0.0), (in_turn[:number], 1.0)):
                for kernel, rank in places_of:
                    result[kernel][rank] = value
            return result
    return [mask.copy() for mask in masks]


def _first_batch(data: Any) -> Any:
    parts = data if isinstance(data, tuple) else (data,)
    if not (len(parts) in (2, 3) or (len(parts) == 1 and is_dataset(parts[0]))):
        raise ValueError(
            "`data` must be a tuple `(x, y)` or `(x, y, sample_weight)`, or a dataset of batches. "
            f"Received: data={type(data)}"
        )
    x, y, weight = (*parts, None, None)[:3]
    return training_batches(x, y, weight, batch_size=2**31, steps=1)[0]
