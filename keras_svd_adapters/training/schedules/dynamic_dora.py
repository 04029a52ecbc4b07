"""The schedule of DynamicDoRA, and the rule that it reads."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.methods.hyperparameters import check_below_one
from keras_svd_adapters.runtime.host_values import to_float64
from keras_svd_adapters.training.rule import ArrayStep, Rule, register_rule
from keras_svd_adapters.training.schedule import ActiveAdapter
from keras_svd_adapters.training.schedules.budget import BudgetSchedule


@register_rule
class RankNorms(Rule):
    """Rule that keeps a running mean of the share of each rank in the norm of its update.

    The share of rank i is `|e_i a_i b_i| / |A diag(e) B|`, before the step.

    Args:
        patterns: Patterns for the paths of the gates e.
        decay: Float in [0, 1), the part of the mean that each step keeps.

    Raises:
        ValueError: If `decay` is out of its range.
    """

    statistics: ClassVar[tuple[str, ...]] = ("rank_norm",)

    def __init__(self, patterns: Any = "*/gate", decay: float = 0.9):
        super().__init__(patterns)
        check_below_one(decay=decay)
        self.decay = decay

    def measure(self, array: ArrayStep) -> dict[str, Any]:
        gate, a, b = array.before, array.sibling("lora_a"), array.sibling("lora_b")
        of_a = ops.matmul(ops.swapaxes(a, -1, -2), a)
        of_b = ops.matmul(b, ops.swapaxes(b, -1, -2))
        products = of_a * of_b * gate[..., None] * gate[..., None, :]
        norms = ops.sqrt(ops.maximum(ops.diagonal(products, axis1=-2, axis2=-1), 0.0))
        whole = ops.sqrt(ops.maximum(ops.sum(products, axis=(-2, -1)), 0.0))[..., None]
        share = ops.where(whole > 0, norms / ops.where(whole > 0, whole, 1.0), 0.0)
        mean = self.decay * array.statistics["rank_norm"] + (1 - self.decay) * share
        return {"rank_norm": mean}

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"decay": self.decay}


@keras.saving.register_keras_serializable("keras_svd_adapters")
class DynamicDoRASchedule(BudgetSchedule):
    """Schedule that prunes the ranks of `DynamicDoRA` with the smallest share in their update.

    A rank that is pruned stays so. At `end`, the term of the loss ends as well. The paper prunes
    from 15 to 50 percent of the training.

    Args:
        rank: Number, the ranks that a kernel keeps at the end, on average.
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
    >>> _ = ksa.enable(model, ksa.methods.DynamicDoRA(rank=3), targets="up")
    >>> schedule = ksa.DynamicDoRASchedule(rank=2, begin=2, end=6, every=2)
    >>> model.compile(ksa.rules(keras.optimizers.Adam(1e-2), schedule.rules()), "mse")
    >>> x, y = keras.ops.ones((16, 8)), keras.ops.ones((16, 6))
    >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[schedule])

    Reference:
        - [Mao et al., 2024](https://arxiv.org/abs/2405.17357)
    """

    statistics: ClassVar[dict[str, tuple[str, ...]]] = {"gate": ("rank_norm",)}

    def rules(self) -> list[Rule]:
        return [RankNorms()]

    def scores(self, adapter: ActiveAdapter) -> np.ndarray:
        mask = to_float64(adapter.arrays["mask"])
        return np.where(mask > 0, self.statistic(adapter, "gate", "rank_norm"), -1.0)

    def on_step(self, step: int) -> None:
        super().on_step(step)
        if step == self.end:
            for adapter in self.adapters():
                weight = adapter.arrays["penalty_weight"]
                weight.assign(np.zeros(weight.shape, "float32"))
