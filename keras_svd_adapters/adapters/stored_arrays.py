"""A Keras layer that stores named arrays, whose values may come from a file later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.kernels.placement import place_variable, without_layout_map
from keras_svd_adapters.runtime.host_values import initializer_of, to_float_array


class StoredArrays(keras.layers.Layer):
    """Base class of the layers that store arrays of adapters.

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
        """Add a variable as an attribute of this name.

        Args:
            name: Name of the array.
            shape: Shape of the array.
            dtype: Dtype of the array; autocasting does not change it.
            value: Initial values.
            trainable: Whether the array trains.
            layout: Layout on the devices, `None` to leave it to Keras.
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
        """Return the names of the arrays, in the order in which they were added."""
        raise NotImplementedError

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        """The variables by name."""
        return {name: getattr(self, name) for name in self.array_names()}

    def uninitialized(self) -> list[keras.Variable]:
        """Return the variables that are 0 until their values are loaded."""
        return list(self.arrays.values())

    def detect_values(self, of_all: bool) -> None:
        """Set `has_values` if values were assigned other than by `load_own_variables`.

        Args:
            of_all: Whether all weights of the model were assigned.
        """
        if not self.has_values:
            self.has_values = of_all or all(to_float_array(v).any() for v in self.uninitialized())

    def save_own_variables(self, store: Any) -> None:
        for name in self.array_names():
            store[name] = getattr(self, name)

    def load_own_variables(self, store: Any) -> None:
        if store.keys() or not self.has_values:
            for name in self.array_names():
                getattr(self, name).assign(store[name])
            self.has_values = True
            self.on_values_loaded()

    def on_values_loaded(self) -> None:
        """Do further work after `load_own_variables` has read values."""
