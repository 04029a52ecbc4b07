"""The schedule of LoRA-prune, and the rule that it reads."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from keras_svd_adapters.methods.algebra import highest
from keras_svd_adapters.runtime.host_values import to_float64
from keras_svd_adapters.training.rule import ArrayStep, Rule, register_rule
from keras_svd_adapters.training.schedule import ActiveAdapter
from keras_svd_adapters.training.schedules.method_schedule import PruningSchedule

PARTS = ("lora_a", "lora_b")
DECAY = 0.9  # of the running mean of the importance


@register_rule
class LastGradient(Rule):
    """Rule that keeps the gradient of the last step for each trained array.

    It changes nothing in training. The schedule of LoRA-prune reads it.

    Args:
        patterns: Patterns for the paths of trained arrays.
    """

    statistics: ClassVar[tuple[str, ...]] = ("gradient",)

    def measure(self, array: ArrayStep) -> dict[str, Any]:
        return {"gradient": array.gradient}


@keras.saving.register_keras_serializable("keras_svd_adapters")
class LoRAPruneSchedule(PruningSchedule):
    """Schedule that prunes the groups of inputs of `LoRAPrune`, to the method's `share`.

    The gradient of a kernel follows from those of the factors, `A dB + dA B - dA dB`. Importance is
    its product with `K + c A B` in size, summed over a group and divided by the norm over all
    groups. At each pruning, the gradients of the last step enter its running mean, and the groups
    with the lowest mean go. The part that stays falls from 1 at `begin` to `share` at `end`; what
    is pruned stays off.

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
    >>> layers = [keras.layers.Dense(12, "relu"), keras.layers.Dense(8, name="down")]
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> _ = ksa.enable(model, ksa.methods.LoRAPrune(rank=2), targets="down")
    >>> schedule = ksa.LoRAPruneSchedule(begin=0, end=6, every=2)
    >>> model.compile(ksa.rules(keras.optimizers.Adam(1e-3), schedule.rules()), "mse")
    >>> x = keras.ops.ones((16, 8))
    >>> _ = model.fit(x, x, batch_size=2, verbose=0, callbacks=[schedule])
    >>> int(keras.ops.sum(layers[1].adapter().mask))
    6

    Reference:
        - [Zhang et al., 2023](https://arxiv.org/abs/2305.18403)
    """

    statistics: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(PARTS, ("gradient",))

    def __init__(self, begin: int, end: int, every: int = 10, seed: int = 0):
        super().__init__(begin, end, every, seed)

    def rules(self) -> list[Rule]:
        return [LastGradient([f"*/{name}" for name in PARTS])]

    def on_step(self, step: int) -> None:
        for adapter in self.adapters():
            method: Any = adapter.method
            mask = to_float64(adapter.arrays["mask"])[..., :: method.group]
            now = self._importance(adapter, method)
            mean = DECAY * to_float64(adapter.arrays["importance"]) + (1 - DECAY) * now
            count = max(1, round(self.share_left(method.share, step) * mask.shape[-1]))
            kept = highest(np.where(mask > 0, mean, -1.0), count)
            adapter.arrays["importance"].assign(mean.astype("float32"))
            adapter.arrays["mask"].assign(np.repeat(kept, method.group, -1).astype("float32"))

    def _importance(self, adapter: ActiveAdapter, method: Any) -> np.ndarray:
        """Return the importance of each group by the gradients of the last step."""
        v, K = adapter.values(), to_float64(adapter.kernel())
        dA, dB = (self.statistic(adapter, name, "gradient") for name in PARTS)
        gradient = v.lora_a @ dB + dA @ v.lora_b - dA @ dB
        rows = np.abs(gradient * (K + method.scale * v.lora_a @ v.lora_b)).sum(-1)
        groups: np.ndarray = rows.reshape(*rows.shape[:-1], -1, method.group).sum(-1)
        norms = np.linalg.norm(groups, axis=-1, keepdims=True)
        return groups / np.where(norms > 0, norms, 1.0)
