"""Private Keras of variables, their files and their optimizer. Checked on Keras 3.15.

- `_value`, `_initialize`, `_deferred_initialize`, `_initializer`: first values come from a file.
- `H5IOStore`, `ShardedH5IOStore`: layers load from them, and they refuse links out of a file.
- `_layout`: `add_weight` takes no layout, and a `LayoutMap` would have to know our names.
- `_exclude_from_weight_decay`, its pattern and cache, `_use_weight_decay`, `_var_key`: the public
  setter forgets what was excluded before. `_apply_weight_decay`: torch fails without any to decay.
- `_learning_rate`: the schedule behind `learning_rate`, also one without `get_config`.
- `_kernel`, `_is_quantized`: how a layer is quantized; Keras has no way back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from keras.src.saving.saving_lib import H5IOStore, ShardedH5IOStore


def has_value(variable: keras.Variable) -> bool:
    """Whether a variable of `shapes_only` has its first value."""
    return variable._value is not None


def initialize(variable: keras.Variable, value: Any = None) -> None:
    """Gives a variable without a value its first, by default that of its initializer."""
    if value is None:
        variable._deferred_initialize()
    else:
        variable._initialize(value)
        variable._initializer = None


def weights_store(path: Path) -> Any:
    """What Keras reads a file of weights with, or the index of several; to be closed."""
    return (ShardedH5IOStore if path.suffix == ".json" else H5IOStore)(path, mode="r")


def layout_of(variable: keras.Variable) -> Any:
    """The layout of a variable, `None` where it has none of its own."""
    return variable._layout


def set_layout(variable: keras.Variable, layout: Any) -> None:
    """Sets how a variable will lie on the devices when it is next assigned (JAX)."""
    variable._layout = layout


def exclude_from_weight_decay(optimizer: Any, variables: list[Any], among: list[Any]) -> None:
    """Excludes more variables from decay, and skips decay where none is left to decay."""
    before: set[Any] = getattr(optimizer, "_exclude_from_weight_decay", set())
    optimizer._exclude_from_weight_decay = before | {optimizer._var_key(v) for v in variables}
    optimizer._exclude_from_weight_decay_cache = {}
    if not any(optimizer._use_weight_decay(v) for v in among):
        optimizer._apply_weight_decay = lambda variables: None


def copy_decay_exclusions(source: Any, target: Any) -> None:
    """Lets an optimizer exclude from weight decay what another excludes."""
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


def rate_or_schedule(optimizer: keras.optimizers.Optimizer) -> Any:
    """The learning rate as it was given: a variable, a schedule or a function."""
    return optimizer._learning_rate


def replace_kernel(layer: Any, kernel: keras.Variable, quantized: bool) -> keras.Variable:
    """Gives an unlocked layer another kernel, before the bias if it trains; returns the old one."""
    before = layer._kernel
    del layer._kernel
    layer._kernel, layer._is_quantized = kernel, quantized
    layer._trainable_variables.sort(key=lambda weight: weight is not kernel)
    return before
