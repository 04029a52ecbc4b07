"""The sensitivity of the loss to each trained value, as AdaLoRA and RoseLoRA rank values by.

    S' = b S + (1 - b) |w g|        U' = u U + (1 - u) | |w g| - S' |

Zhang et al. 2023, arXiv:2303.10512, equations 8 to 10. `w` and its gradient `g` are those before
the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from keras import ops

from keras_svd_adapters.methods.hyperparameters import check_below_one
from keras_svd_adapters.training.rule import ArrayStep, Rule, register_rule


@register_rule
class Sensitivity(Rule):
    """Rule that keeps a running mean of `|w g|` for each value `w` with gradient `g`.

    It changes nothing in training. The schedules of AdaLoRA, RoseLoRA and AFLoRA read it.

    Args:
        patterns: Patterns for the paths of trained arrays.
        decay: Float in [0, 1), the part of the mean that each step keeps.
        uncertainty: Float in [0, 1), or `None`. The same for the mean distance of `|w g|` from
            its running mean, which AdaLoRA calls uncertainty.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        - [Zhang et al., 2023](https://arxiv.org/abs/2303.10512)
    """

    statistics: ClassVar[tuple[str, ...]] = ("sensitivity", "uncertainty")

    def __init__(
        self,
        patterns: str | Iterable[str] = ("*/lora_a", "*/lora_b"),
        decay: float = 0.85,
        uncertainty: float | None = None,
    ):
        super().__init__(patterns)
        check_below_one(decay=decay)
        if uncertainty is not None:
            check_below_one(uncertainty=uncertainty)
        self.decay, self.uncertainty = decay, uncertainty
        if uncertainty is None:
            self.statistics = ("sensitivity",)  # type: ignore[misc]

    def measure(self, array: ArrayStep) -> dict[str, Any]:
        now = ops.abs(array.before * array.gradient)
        mean = self.decay * array.statistics["sensitivity"] + (1 - self.decay) * now
        if self.uncertainty is None:
            return {"sensitivity": mean}
        distance = (1 - self.uncertainty) * ops.abs(now - mean)
        told = self.uncertainty * array.statistics["uncertainty"] + distance
        return {"sensitivity": mean, "uncertainty": told}

    def get_config(self) -> dict[str, Any]:
        own = {"decay": self.decay, "uncertainty": self.uncertainty}
        return super().get_config() | own
