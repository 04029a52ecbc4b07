"""A Keras layer that holds named arrays, whose values may come from a file later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.kernels.placement import place_variable, without_layout_map
from keras_svd_adapters.runtime.host_values import initializer_of, to_float_array


class StoredArrays(keras.layers.Layer):
    """Base of the layers that hold arrays of adapters.

    A subclass sets `has_values` and calls `add_array` for each array.
    """

    has_values: bool

    def add_array(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: Any,
        value: np.ndarray | float,
        trainable: bool = False,
        layout: Any = None,
    ) -> keras.Variable:
        """Adds a variable as an attribute of this name.

        Args:
            name: Name of the array.
            shape: Its shape.
            dtype: Its dtype; autocasting leaves it alone.
            value: Its first values.
            trainable: Whether it trains.
            layout: Its layout on the devices, `None` to leave that to Keras.
        """
        with without_layout_map():
            variable = self.add_weight(
                name=name,
                shape=shape,
                dtype=dtype,
                initializer=initializer_of(value),
                trainable=trainable,
                autocast=False,
            )
        place_variable(variable, layout)
        setattr(self, name, variable)
        return variable

    def array_names(self) -> Iterable[str]:
        """The names of the arrays, in the order in which they were added."""
        raise NotImplementedError

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        """The variables by name."""
        return {name: getattr(self, name) for name in self.array_names()}

    def uninitialized(self) -> list[keras.Variable]:
        """The variables that are 0 until their values come."""
        return list(self.arrays.values())

    def detect_values(self, of_all: bool) -> None:
        """Sets `has_values` if values came by another way than `load_own_variables`.

        Args:
            of_all: Whether all weights of the model were assigned.
        """
        if not self.has_values:
            self.has_values = of_all or all(to_float_array(v).any() for v in self.uninitialized())

    def save_own_variables(self, store: Any) -> None:
        for name, variable in self.arrays.items():
            store[name] = variable
