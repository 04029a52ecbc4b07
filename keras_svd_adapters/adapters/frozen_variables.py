"""Variables that stay frozen when `trainable` is set on the layers above them."""

from __future__ import annotations

import keras


class FrozenVariable(keras.Variable):
    """A variable that stays frozen when `trainable` is set on a layer above it."""

    @property
    def trainable(self) -> bool:
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """Do nothing: `freeze_variable` has frozen the variable."""


def freeze_variable(variable: keras.Variable) -> None:
    """Freeze a variable until `unfreeze_variable`."""
    if isinstance(variable, FrozenVariable):
        return
    variable.trained_before_pin = variable.trainable
    variable.trainable = False
    variable.__class__ = FrozenVariable


def is_frozen_variable(variable: keras.Variable) -> bool:
    """Whether `freeze_variable` froze a variable."""
    return isinstance(variable, FrozenVariable)


def unfreeze_variable(variable: keras.Variable) -> None:
    """Restore the `trainable` that a variable had before `freeze_variable`."""
    if isinstance(variable, FrozenVariable):
        variable.__class__ = keras.Variable
        variable.trainable = variable.trained_before_pin
