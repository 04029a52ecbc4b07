"""The gradients of the last step, for schedules that combine those of several arrays."""

from __future__ import annotations

from typing import Any, ClassVar

from keras_svd_adapters.training.rule import ArrayStep, Rule, register_rule


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
