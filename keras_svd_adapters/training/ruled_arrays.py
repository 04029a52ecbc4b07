"""The arrays that the rules of an optimizer act on, and what the rules keep of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.models.state.optimizer_state import build_with_slots
from keras_svd_adapters.training.rule import ArrayStep, Rule


class RuledArray:
    """One trained array with the rules that act on it.

    Args:
        variable: The array.
        rules: Its rules, in their order.
        slots: The variables that the optimizer keeps of it.
    """

    def __init__(self, variable: keras.Variable, rules: list[Rule], slots: list[keras.Variable]):
        self.variable, self.rules, self.slots = variable, rules, slots
        self.statistics: list[dict[str, keras.Variable]] = []  # of each rule, by name
        self.gathered: keras.Variable | None = None  # the sum of gradients since the last update
        self.now: ArrayStep | None = None  # the step that runs
        self.held: list[Any] = []  # values of the slots before the step

    def any_overrides(self, *names: str) -> bool:
        return any(rule.overrides(name) for rule in self.rules for name in names)


class RuledArrays:
    """Rules, and the arrays that they match once `build` knows what trains.

    This is an object of its own, because Keras would track the variables among the attributes of
    an optimizer.
    """

    def __init__(self, rules: tuple[Rule, ...]):
        self.rules = rules
        self.arrays: dict[int, RuledArray] = {}
        self.trained: list[keras.Variable] = []
        self.by_path: dict[str, keras.Variable] = {}

    def ratio(self, variable: keras.Variable) -> float:
        """Return the factor of the learning rate of an array."""
        ratio = 1.0
        for rule in self.rules:
            ratio *= rule.ratio(variable.path)
        return ratio

    def build(self, optimizer: Any, variables: Any) -> None:
        """Build the inner optimizer, and the statistics of the rules."""
        inner = optimizer.inner_optimizer
        if any(rule.overrides("holds") for rule in self.rules):
            slots = build_with_slots(inner, variables)
        else:
            slots = {}
            inner.build(variables)
        gathers = (inner.gradient_accumulation_steps or 1) > 1
        self.trained = variables[:]
        self.by_path = {variable.path: variable for variable in variables}
        for variable in variables:
            acting = [rule for rule in self.rules if rule.acts_on(variable.path)]
            if not acting:
                continue
            array = RuledArray(variable, acting, slots.get(id(variable), []))
            for rule in acting:
                names = rule.statistics
                kept = {n: optimizer.add_variable_from_reference(variable, name=n) for n in names}
                array.statistics.append(kept)
            if gathers and array.any_overrides("measure"):
                array.gathered = optimizer.add_variable_from_reference(variable, name="gathered")
            self.arrays[id(variable)] = array

    def statistic(self, variable: keras.Variable, name: str) -> keras.Variable | None:
        array = self.arrays.get(id(variable))
        kept = array.statistics if array else ()
        return next((found[name] for found in kept if name in found), None)

    def before_step(
        self,
        gradients: list[Any],
        variables: list[keras.Variable] | None,
        step: Any,
        learning_rate: Any,
        every: int,
        is_update: Any,
    ) -> list[Any]:
        """Read the arrays and update the statistics; return the gradients for the optimizer."""
        changed = []
        for variable, gradient in zip(variables or self.trained, gradients, strict=True):
            array = self.arrays.get(id(variable))
            if array is not None and gradient is not None:
                sibling = partial(self._sibling, variable.path.rpartition("/")[0])
                now = ArrayStep(variable.path, tuple(variable.shape), step, learning_rate)
                now = replace(now, sibling=sibling)
                gradient = _begin(array, now, gradient, every, is_update)
            changed.append(gradient)
        return changed

    def _sibling(self, scope: str, name: str) -> Any:
        return ops.convert_to_tensor(self.by_path[f"{scope}/{name}"])

    def after_step(self, is_update: Any) -> None:
        """Change what the optimizer made of the arrays."""
        for array in self.arrays.values():
            if array.now is not None:
                _end(array, array.now, is_update)
            array.now, array.held = None, []


def _begin(array: RuledArray, now: ArrayStep, gradient: Any, every: int, is_update: Any) -> Any:
    measures, before = array.any_overrides("measure"), None
    if measures or array.any_overrides("change_value", "holds"):
        before = ops.copy(array.variable)
    if array.any_overrides("holds"):
        array.held = [ops.copy(slot) for slot in array.slots]
    mean = ops.convert_to_tensor(gradient) if measures else None
    if measures and array.gathered is not None:
        total = array.gathered + mean
        mean = total / every
        array.gathered.assign(where(is_update, ops.zeros_like(total), total))
    now = array.now = replace(now, before=before, gradient=mean)
    for rule, kept in zip(array.rules, array.statistics, strict=True):
        values = {name: ops.convert_to_tensor(v) for name, v in kept.items()}
        for name, value in rule.measure(replace(now, statistics=values)).items():
            kept[name].assign(where(is_update, value, kept[name]))
    for rule in array.rules:
        if rule.overrides("change_gradient"):
            gradient = rule.change_gradient(ops.convert_to_tensor(gradient), now)
    return gradient


def _end(array: RuledArray, now: ArrayStep, is_update: Any) -> None:
    if array.any_overrides("change_value"):
        value = made = ops.convert_to_tensor(array.variable)
        for rule in array.rules:
            value = rule.change_value(value, now)
        if value is not made:
            array.variable.assign(where(is_update, value, made))
    for rule in array.rules:
        if not rule.overrides("holds"):
            continue
        holds = rule.holds(now)
        array.variable.assign(where(holds, now.before, array.variable))
        for slot, value in zip(array.slots, array.held, strict=True):
            slot.assign(where(holds, value, slot))


def where(condition: Any, value: Any, otherwise: Any) -> Any:
    """Return one of two tensors or variables; without a condition, the first one."""
    if condition is None:
        return value
    # JAX refuses variables
    return ops.where(condition, ops.convert_to_tensor(value), ops.convert_to_tensor(otherwise))
