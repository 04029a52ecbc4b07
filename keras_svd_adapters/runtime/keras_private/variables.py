"""Private Keras API of variables, their files and their optimizer (Keras 3.10 to 3.15).

- `_value`, `_initialize`, `_deferred_initialize`, `_initializer`: first values come from a file.
- `AutocastScope`, `_maybe_autocast`: a kernel in host memory moves before it is cast.
- `H5IOStore`, `ShardedH5IOStore`: layers load from these stores, which reject links out of a file.
- `_layout`: `add_weight` takes no layout, and a `LayoutMap` would need the names of this package.
- `_exclude_from_weight_decay` and around it: the public setter drops what was excluded before.
- `_apply_weight_decay`: torch fails if no variable decays.
- `_learning_rate`: the schedule behind `learning_rate`, also one without `get_config`.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import keras
from keras.src.backend import AutocastScope
from keras.src.saving.saving_lib import H5IOStore, ShardedH5IOStore

stored_value = attrgetter("_value")  # `None` for a variable of `shapes_only`
layout_of = attrgetter("_layout")  # `None` without a layout of its own (JAX)
rate_or_schedule = attrgetter("_learning_rate")  # a variable, a schedule or a function


def initialize(variable: keras.Variable, value: Any = None) -> None:
    """Give a variable its first value, by default the value of its initializer."""
    variable._deferred_initialize() if value is None else variable._initialize(value)
    variable._initializer = None


def read_moved(variable: keras.Variable, move: Callable[[Any], Any]) -> Any:
    """Return what operations read from a variable now; `move` gets the value before its cast."""
    with AutocastScope(None):
        value = variable.value
    return variable._maybe_autocast(move(value))


def weights_store(path: Path) -> Any:
    """Return Keras's reader of a weights file, or of an index of files; the caller closes it."""
    return (ShardedH5IOStore if path.suffix == ".json" else H5IOStore)(path, mode="r")


def set_layout(variable: keras.Variable, layout: Any) -> None:
    """Set the placement of a variable on the devices from its next assignment on (JAX)."""
    variable._layout = layout


def exclude_from_weight_decay(optimizer: Any, variables: list[Any]) -> None:
    """Exclude more variables from decay, and skip decay if no variable is left to decay."""
    before: set[Any] = getattr(optimizer, "_exclude_from_weight_decay", set())
    optimizer._exclude_from_weight_decay = before | {optimizer._var_key(v) for v in variables}
    optimizer._exclude_from_weight_decay_cache = {}
    decay, use = optimizer._apply_weight_decay, optimizer._use_weight_decay
    optimizer._apply_weight_decay = lambda among: decay(among) if any(map(use, among)) else None


def copy_decay_exclusions(source: Any, target: Any) -> None:
    """Copy the weight decay exclusions of one optimizer to another."""
    names = {"_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"}
    vars(target).update({name: vars(source)[name] for name in names & vars(source).keys()})
