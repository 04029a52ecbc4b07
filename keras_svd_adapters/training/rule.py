"""The base class of rules that an optimizer follows in each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import keras


@dataclass(frozen=True)
class ArrayStep:
    """One trained array in one step, as a rule sees it.

    Args:
        path: Path of the variable, such as `"dense/adapter_default/lora_b"`.
        shape: Shape of the array.
        step: Number of updates before this one.
        learning_rate: Learning rate of this step.
        before: Values before the step.
        gradient: The gradient of the loss. If gradients gather over several batches, their mean.
        sibling: Function from a name such as `"lora_a"` to the values, before the step, of another
            trained array of the same adapter.
        statistics: Values of the statistics that the rule keeps of this array, by name.
    """

    path: str
    shape: tuple[int, ...]
    step: Any
    learning_rate: Any
    before: Any = None
    gradient: Any = None
    sibling: Callable[[str], Any] = lambda name: None
    statistics: dict[str, Any] = field(default_factory=dict)


class Rule:
    """Base class of rules that an optimizer follows in each step; see `rules`.

    A subclass overrides the functions that it needs. They compute with `keras.ops`, and are
    compiled with the training step. They cannot change a frozen array.

    Args:
        patterns: Patterns such as `"*/lora_b"` for the paths of trained arrays, in which `*` is any
            text.

    Class attributes:

    - `statistics`: the names of optimizer variables, of the shape of the array, that the rule keeps
      of each array. They start at 0, and are saved with the optimizer.
    - `may_hold`: whether an array may stay as it is for many steps.
    """

    statistics: ClassVar[tuple[str, ...]] = ()
    may_hold: ClassVar[bool] = False

    def __init__(self, patterns: str | Iterable[str]):
        listed = [patterns] if isinstance(patterns, str) else list(patterns)
        if not listed or not all(isinstance(each, str) and each for each in listed):
            raise ValueError(
                "`patterns` must be a pattern such as '*/lora_b', or a list of these. "
                f"Received: patterns={patterns!r}"
            )
        self.patterns = tuple(listed)

    def pattern_of(self, path: str) -> str | None:
        """Return the first pattern that matches the path of an array."""
        return next((each for each in self.patterns if fnmatchcase(path, each)), None)

    def acts_on(self, path: str) -> bool:
        """Return whether the rule does anything with an array."""
        return self.pattern_of(path) is not None

    def ratio(self, path: str) -> float:
        """Return the factor of the learning rate of an array."""
        return 1.0

    def change_gradient(self, gradient: Any, array: ArrayStep) -> Any:
        """Return the gradient that the optimizer gets."""
        return gradient

    def measure(self, array: ArrayStep) -> dict[str, Any]:
        """Return the new values of the statistics, by name."""
        return {}

    def holds(self, array: ArrayStep) -> Any:
        """Return a boolean tensor: whether the array and its optimizer state stay as they are."""
        return None

    def change_value(self, value: Any, array: ArrayStep) -> Any:
        """Return the value after the step; `value` is what the optimizer made of `array.before`."""
        return value

    def overrides(self, name: str) -> bool:
        """Whether the class of the rule overrides a function."""
        return getattr(type(self), name) is not getattr(Rule, name)

    def get_config(self) -> dict[str, Any]:
        return {"patterns": list(self.patterns)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Rule:
        return cls(**config)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({shown})"


def register_rule(cls: type[Rule]) -> type[Rule]:
    """Register a rule of this package, so that Keras saves it with the optimizer."""
    return keras.saving.register_keras_serializable("keras_svd_adapters")(cls)


def numbers_by_pattern(name: str, given: Any, example: str) -> dict[str, float]:
    """Return positive numbers by pattern; raise `ValueError` for anything else."""
    wrong = not isinstance(given, Mapping) or not given
    if wrong or not all(map(_is_positive, given.values())):
        raise ValueError(
            f"`{name}` must be a dictionary of positive numbers by pattern, such as {example}. "
            f"Received: {name}={given!r}"
        )
    return {pattern: float(value) for pattern, value in given.items()}


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < float("inf")
