"""Variables that stay frozen whatever is set on the layers above them."""

from __future__ import annotations

import keras


class PinnedVariable(keras.Variable):
    """A variable that stays frozen when `trainable` is set on a layer above it."""

    @property
    def trainable(self) -> bool:
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """Nothing: `pin` has set it."""


def pin(variable: keras.Variable) -> None:
    """Freezes a variable until `unpin`."""
    if isinstance(variable, PinnedVariable):
        return
    variable.trained_before_pin = variable.trainable
    variable.trainable = False
    variable.__class__ = PinnedVariable


def is_pinned(variable: keras.Variable) -> bool:
    """Whether `pin` holds a variable."""
    return isinstance(variable, PinnedVariable)


def unpin(variable: keras.Variable) -> None:
    """Gives a pinned variable back the `trainable` it had."""
    if isinstance(variable, PinnedVariable):
        variable.__class__ = keras.Variable
        variable.trainable = variable.trained_before_pin
