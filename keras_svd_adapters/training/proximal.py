"""Rules that make values exactly 0, and keep them there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from keras import ops

from keras_svd_adapters.training.rule import ArrayStep, Rule, numbers_by_pattern, register_rule


@register_rule
class Proximal(Rule):
    """Rule that moves values towards 0 after each step, and sets small ones to 0, as SoRA does.

    This is the proximal step of an L1 penalty, soft thresholding:
    `w <- sign(w) max(|w| - rate * strength, 0)`. The published code of SoRA sets all values below
    twice its threshold to 0 instead.

    Args:
        strengths: Dictionary of positive numbers by pattern for the paths of
            trained arrays, such as `{"*/gate": 0.1}`.

    Raises:
        ValueError: If a strength is not positive.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> _ = ksa.enable(model, ksa.methods.SoRA(rank=2), targets="up")
    >>> optimizer = ksa.rules(keras.optimizers.Adam(3e-3), [ksa.Proximal({"*/gate": 0.1})])
    >>> model.compile(optimizer, "mse")

    Reference:
        - [Ding et al., 2023](https://arxiv.org/abs/2311.11696)
    """

    def __init__(self, strengths: Mapping[str, float]):
        self.strengths = numbers_by_pattern("strengths", strengths, "{'*/gate': 0.1}")
        super().__init__(list(strengths))

    def change_value(self, value: Any, array: ArrayStep) -> Any:
        strength = self.strengths[self.pattern_of(array.path) or ""]
        threshold = ops.cast(array.learning_rate, "float32") * strength
        return ops.sign(value) * ops.maximum(ops.abs(value) - threshold, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {"strengths": self.strengths}


@register_rule
class KeepZeros(Rule):
    """Rule by which a value that is exactly 0 stays 0, so that pruned values do not come back.

    Args:
        patterns: Patterns for the paths of trained arrays. An array that starts at
            0, such as `lora_b` of LoRA, would never train.
    """

    may_hold: ClassVar[bool] = True

    def change_value(self, value: Any, array: ArrayStep) -> Any:
        return ops.where(ops.equal(array.before, 0.0), 0.0, value)
