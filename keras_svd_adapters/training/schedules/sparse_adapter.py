"""The schedule of SparseAdapter."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_svd_adapters.runtime.host_values import to_float64
from keras_svd_adapters.training.rule import Rule
from keras_svd_adapters.training.schedule import ActiveAdapter
from keras_svd_adapters.training.schedules.method_schedule import (
    MethodSchedule,
    highest_of_all,
    set_mask,
)
from keras_svd_adapters.training.sensitivity import Sensitivity

SCORES = ("snip", "synflow", "magnitude", "random")
PARTS = {"lora_a": "mask_a", "lora_b": "mask_b"}
FIRST = {"snip": 2, "synflow": 1}  # steps before which B, or the gradient of A, is still 0


@keras.saving.register_keras_serializable("keras_svd_adapters")
class SparseAdapterSchedule(MethodSchedule):
    """Schedule that prunes `SparseAdapter` to its `share`, over all kernels together.

    The last of `rounds` rounds leaves `share`; round `i` leaves `share ** (i / rounds)`.

    Args:
        step: Integer, the step of the first round. `"snip"` needs 2 or more and `"synflow"` 1: at
            the start, `B` and the gradient of `A` are 0, and all scores with them.
        score: What is kept: `"snip"`, the values with the highest running mean of `|w g|`;
            `"synflow"`, those through which most of a flow of ones passes from the inputs of
            `|A| |B|` to its outputs, without the kernels of the base; `"magnitude"`, the largest
            ones; or `"random"`.
        rounds: Integer, the number of rounds.
        every: Integer, the number of steps from one round to the next.
        seed: Integer, the seed of `"random"`.

    Raises:
        ValueError: If an argument is wrong, or, before the first step, if no active adapter has
            this method, the optimizer lacks the rule, or training ends before the last round.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> _ = ksa.enable(model, ksa.methods.SparseAdapter(rank=4), targets="up")
    >>> schedule = ksa.SparseAdapterSchedule(step=4)
    >>> model.compile(ksa.rules(keras.optimizers.Adam(3e-3), schedule.rules()), "mse")
    >>> x, y = keras.ops.ones((16, 8)), keras.ops.ones((16, 6))
    >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[schedule])

    Reference:
        - [He et al., 2022](https://arxiv.org/abs/2210.04284)
    """

    def __init__(
        self, step: int, score: str = "snip", rounds: int = 1, every: int = 10, seed: int = 0
    ):
        super().__init__(seed)
        if score not in SCORES:
            raise ValueError(f"`score` must be one of {SCORES}. Received: score={score!r}")
        least = FIRST.get(score, 0)
        for name, value, low in (("step", step, least), ("rounds", rounds, 1), ("every", every, 1)):
            if type(value) is not int or value < low:
                raise ValueError(
                    f"`{name}` must be an integer from {low}"
                    + ", since all scores are 0 before" * (name == "step" and low > 0)
                    + f". Received: {name}={value!r}"
                )
        self.step, self.score, self.rounds, self.every = step, score, rounds, every
        if score == "snip":
            self.statistics = dict.fromkeys(PARTS, ("sensitivity",))  # type: ignore[misc]

    def check(self) -> None:
        super().check()
        shares = {each.method.share: each for each in self.adapters()}  # type: ignore[attr-defined]
        if len(shares) > 1:
            raise ValueError(
                "All kernels together are pruned to one share: give their methods the same "
                f"`share`. Received: {' and '.join(str(x.method) for x in shares.values())}"
            )

    @property
    def last_step(self) -> int:
        return self.step + (self.rounds - 1) * self.every

    def rules(self) -> list[Rule]:
        is_read = self.score == "snip"
        return [Sensitivity([f"*/{name}" for name in PARTS], decay=0.8)] if is_read else []

    def due(self, step: int) -> bool:
        return step in range(self.step, self.last_step + 1, self.every)

    def on_step(self, step: int) -> None:
        numbers = self.random(step)
        parts = [(adapter, name) for adapter in self.adapters() for name in PARTS]
        scores = [self._scores(adapter, name, numbers) for adapter, name in parts]
        share = parts[0][0].method.share  # type: ignore[attr-defined]
        left = share ** (((step - self.step) // self.every + 1) / self.rounds)
        count = max(1, round(left * sum(each.size for each in scores)))
        for (adapter, name), mask in zip(parts, highest_of_all(scores, count), strict=True):
            set_mask(adapter, PARTS[name], mask, name)

    def _scores(
        self, adapter: ActiveAdapter, name: str, numbers: np.random.Generator
    ) -> np.ndarray:
        """Return a score of each value of an array; what is pruned has a lower one than all."""
        mask = to_float64(adapter.arrays[PARTS[name]])
        if self.score == "random":
            scores = numbers.random(mask.shape)
        elif self.score == "magnitude":
            scores = np.abs(to_float64(adapter.arrays[name]))
        elif self.score == "synflow":
            scores = _flow(adapter)[name]
        else:
            scores = self.statistic(adapter, name, "sensitivity")
        return np.where(mask > 0, scores, -1.0)

    def get_config(self) -> dict[str, Any]:
        own = {"step": self.step, "score": self.score, "rounds": self.rounds, "every": self.every}
        return super().get_config() | own


def _flow(adapter: ActiveAdapter) -> dict[str, np.ndarray]:
    """Return `w dR/dw` of all values for `R`, the sum of the entries of `|A| |B|`."""
    v = adapter.values()
    A, B = np.abs(v.lora_a), np.abs(v.lora_b)
    return {"lora_a": A * B.sum(-1)[..., None, :], "lora_b": A.sum(-2)[..., None] * B}
