"""The optimizer of a model whose trained variables change, and the state that it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.kernels.placement import mirrored_scope, without_layout_map
from keras_svd_adapters.runtime.keras_private.variables import copy_decay_exclusions
from keras_svd_adapters.runtime.name_scopes import name_scopes

Variables = list[keras.Variable]


def fresh_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return an unbuilt copy of an optimizer, with its exclusions from weight decay."""
    if hasattr(optimizer, "with_inner"):  # its rules need no configuration
        return optimizer.with_inner(fresh_optimizer(optimizer.inner_optimizer))  # type: ignore[no-any-return]
    copy = type(optimizer).from_config(optimizer.get_config())
    copy_decay_exclusions(optimizer, copy)
    if hasattr(optimizer, "inner_optimizer"):
        copy.inner_optimizer = fresh_optimizer(optimizer.inner_optimizer)
    return copy


def renewed_optimizer(optimizer: Any, before: Variables, now: Variables) -> tuple[Any, int]:
    """Return an optimizer for other variables, which keeps the state of those that still train.

    Adam and similar optimizers correct a bias by the number of their steps. The number of steps
    is therefore kept if the state of a variable is kept, and starts at 0 if not.

    Args:
        optimizer: A built optimizer.
        before: The variables that it was built for.
        now: The variables to train from now on.

    Returns:
        A built copy with the same settings, and the number of variables whose state it keeps.
    """
    with mirrored_scope(now[0]) if now else nullcontext():
        renewed = fresh_optimizer(optimizer)
        slots = build_with_slots(renewed, now)
    if not {id(v) for v in now} & {id(v) for v in before}:
        return renewed, 0
    with without_layout_map():  # small variables show which slot of the optimizer is whose
        old, small = fresh_optimizer(optimizer), list(map(_small, before))
        found = build_with_slots(old, small)
    if [len(v.shape) for v in old.variables] != [len(v.shape) for v in optimizer.variables]:
        return renewed, 0
    value_of = {id(v): own for v, own in zip(old.variables, optimizer.variables, strict=True)}
    slots_before = {id(v): found[id(own)] for v, own in zip(before, small, strict=True)}
    kept = [key for key in slots if slots[key] and key in slots_before]
    pairs = [pair for key in kept for pair in zip(slots[key], slots_before[key], strict=True)]
    if kept:
        pairs += zip(_others(renewed, slots), _others(old, found), strict=True)
    for new, was in pairs:
        new.assign(value_of[id(was)])
    return renewed, len(kept)


def _small(variable: keras.Variable) -> keras.Variable:
    """Return a variable of one value, with the path and the number of axes of this one."""
    scope, _, name = variable.path.rpartition("/")
    with name_scopes(scope) if scope else nullcontext():
        value = np.zeros((1,) * len(variable.shape))
        return keras.Variable(value, dtype=variable.dtype, name=name)


def build_with_slots(optimizer: Any, variables: Variables) -> dict[int, Variables]:
    """Build an optimizer; return the variables that it adds for each variable, by identity."""
    listed = _Watched(variables)
    slots: dict[int, Variables] = {id(variable): [] for variable in variables}
    chain = [optimizer]
    while (inner := getattr(chain[-1], "inner_optimizer", None)) is not None:
        chain.append(inner)
    before = [vars(each).get("add_variable") for each in chain]
    for each in chain:

        def add(*args: Any, original: Any = each.add_variable, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            slots.get(id(listed.current), []).append(made)
            return made

        object.__setattr__(each, "add_variable", add)
    try:
        optimizer.build(listed)
    finally:
        for each, add_before in zip(chain, before, strict=True):
            vars(each).pop("add_variable", None)
            if add_before is not None:
                object.__setattr__(each, "add_variable", add_before)
    return slots


class _Watched(list[Any]):
    """A list that knows which of its items a loop reached; it may be the copy of another."""

    current: Any = None

    def __init__(self, items: list[Any]):
        super().__init__(items)
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.current = item
            yield item
        self.current = None


def _others(optimizer: Any, slots: dict[int, Variables]) -> Variables:
    """Return the variables of an optimizer that belong to no single variable of a model."""
    own = {id(slot) for found in slots.values() for slot in found}
    return [variable for variable in optimizer.variables if id(variable) not in own]
