"""Training of two groups of arrays in turn, as BiLoRA does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from keras import ops

from keras_svd_adapters.training.rule import ArrayStep, Rule, register_rule


@register_rule
class Alternate(Rule):
    """Rule by which two groups of arrays train in turn; while one trains, the other is frozen.

    A frozen array keeps its value and its moments in the optimizer. The optimizer counts all
    steps. BiLoRA trains the gates on one part of the data and the factors on the other: give
    `fit` batches of the two parts in the same rhythm, without shuffling.

    Args:
        first: Patterns for the paths of the arrays that train first.
        second: Patterns for the arrays that train after them.
        steps: Integer, or a pair of integers: the number of steps in a row of
            each group.

    Raises:
        ValueError: If a number of steps is not positive.

    Example:

    >>> import keras_svd_adapters as ksa
    >>> ksa.Alternate("*/gate", ["*/lora_a", "*/lora_b"])
    Alternate(first=['*/gate'], second=['*/lora_a', '*/lora_b'], steps=[1, 1])

    Reference:
        - [Qiang et al., 2024](https://arxiv.org/abs/2403.13037)
    """

    may_hold: ClassVar[bool] = True

    def __init__(
        self,
        first: str | Iterable[str] = "*/gate",
        second: str | Iterable[str] = ("*/lora_a", "*/lora_b"),
        steps: int | Iterable[int] = 1,
    ):
        self.groups = Rule(first).patterns, Rule(second).patterns
        super().__init__([*self.groups[0], *self.groups[1]])
        lengths = (steps, steps) if isinstance(steps, int) else tuple(steps)
        if len(lengths) != 2 or not all(isinstance(x, int) and x > 0 for x in lengths):
            raise ValueError(
                f"`steps` must be a positive integer, or a pair of these. Received: steps={steps!r}"
            )
        self.lengths = lengths

    def holds(self, array: ArrayStep) -> Any:
        first, both = self.lengths[0], sum(self.lengths)
        first_trains = ops.less(ops.mod(array.step, both), first)
        in_first = self.pattern_of(array.path) in self.groups[0]
        return ops.logical_not(first_trains) if in_first else first_trains

    def get_config(self) -> dict[str, Any]:
        first, second = map(list, self.groups)
        return {"first": first, "second": second, "steps": list(self.lengths)}
