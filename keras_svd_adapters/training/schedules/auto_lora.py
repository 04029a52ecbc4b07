"""The schedule of AutoLoRA."""

from __future__ import annotations

from typing import Any

import keras

from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.training.alternation import Alternate
from keras_svd_adapters.training.rule import Rule
from keras_svd_adapters.training.rules import ruled_optimizer
from keras_svd_adapters.training.schedules.method_schedule import MethodSchedule


@keras.saving.register_keras_serializable("keras_svd_adapters")
class AutoLoRASchedule(MethodSchedule):
    """Schedule that chooses the ranks of `AutoLoRA` from its gates.

    At `step`, each kernel keeps the ranks whose gate, a softmax, is at least `1 / rank`. Before,
    the gates train on validation data: `rules` lets them and the factors train in turn, and `fit`
    gets batches of both kinds of data in the same rhythm.

    Args:
        step: Integer, the step at which the ranks are chosen.
        seed: Integer, not used.

    Raises:
        ValueError: If an argument is wrong, or, before the first step, if no active adapter has
            this method, the optimizer lacks the rule, or training ends before `step`.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> _ = ksa.enable(model, ksa.methods.AutoLoRA(rank=2), targets="up")
    >>> schedule = ksa.AutoLoRASchedule(step=6)
    >>> model.compile(ksa.rules(keras.optimizers.Adam(1e-2), schedule.rules()), "mse")
    >>> x, y = keras.ops.ones((16, 8)), keras.ops.ones((16, 6))
    >>> _ = model.fit(x, y, batch_size=2, verbose=0, callbacks=[schedule])

    Reference:
        - [Zhang et al., 2024](https://arxiv.org/abs/2403.09113)
    """

    def __init__(self, step: int, seed: int = 0):
        super().__init__(seed)
        check_positive_integers(step=step)
        self.step = step

    @property
    def last_step(self) -> int:
        return self.step

    def check(self) -> None:
        super().check()
        ruled = ruled_optimizer(self.model.optimizer)
        if ruled is None or not any(isinstance(rule, Alternate) for rule in ruled.rules):
            raise ValueError(
                f"`{type(self).__name__}` needs a rule by which gates and factors train in turn: "
                "type `model.compile(ksa.rules(optimizer, schedule.rules()), ...)`. "
                f"Received: optimizer={self.model.optimizer!r}"
            )

    def rules(self) -> list[Rule]:
        return [Alternate(["*/lora_a", "*/lora_b"], "*/gate")]

    def due(self, step: int) -> bool:
        return step == self.step

    def on_step(self, step: int) -> None:
        for adapter in self.adapters():
            for name, mask in adapter.method.pruned(adapter.values(), share=None).items():
                adapter.arrays[name].assign(mask.astype("float32"))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"step": self.step}
