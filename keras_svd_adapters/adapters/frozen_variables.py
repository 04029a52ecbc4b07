"""Variables that stay frozen when `trainable` is set on the layers above them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_svd_adapters.runtime.host_memory import on_device


class FrozenVariable(keras.Variable):
    """A variable that stays frozen when `trainable` is set on a layer above it."""

    @property
    def trainable(self) -> bool:
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """Do nothing: `freeze_variable` has frozen the variable."""


def freeze_variable(variable: keras.Variable) -> None:
    """Freeze a variable until `restore_variable`."""
    if isinstance(variable, FrozenVariable):
        return
    vars(variable).setdefault("trainable_at_first", variable.trainable)
    variable.trainable = False
    variable.__class__ = FrozenVariable


def is_frozen_variable(variable: keras.Variable) -> bool:
    """Whether `freeze_variable` froze a variable."""
    return isinstance(variable, FrozenVariable)


def without_gradient(variable: keras.Variable) -> Any:
    """Return a variable as operations read it; TensorFlow traces no gradient of a frozen one.

    TensorFlow decides when it makes a variable whether it has a gradient.
    """
    if keras.backend.backend() == "tensorflow" and not variable.trainable:
        return ops.stop_gradient(ops.convert_to_tensor(variable))
    return on_device(variable)  # TensorFlow keeps all variables there


def train_variable(variable: keras.Variable) -> None:
    """Make a variable that is not frozen trainable until `restore_variable`."""
    vars(variable).setdefault("trainable_at_first", variable.trainable)
    variable.trainable = True


def restore_variable(variable: keras.Variable) -> None:
    """Undo `freeze_variable` and `train_variable`."""
    if isinstance(variable, FrozenVariable):
        variable.__class__ = keras.Variable
    if "trainable_at_first" in vars(variable):
        variable.trainable = vars(variable).pop("trainable_at_first")
