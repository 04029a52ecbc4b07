"""The contract of a storage: what differs between int8, int4 and NF4."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np


class Rounded(NamedTuple):
    """A kernel as it is stored.

    Args:
        stored: The values of the weights that store the kernel, by weight name.
        floats: The dequantized kernel, in the shape of the kernel.
    """

    stored: dict[str, np.ndarray]
    floats: np.ndarray

    @property
    def bytes(self) -> int:
        """The size of all stored weights."""
        return sum(values.nbytes for values in self.stored.values())


class Storage(ABC):
    """A way to store the kernel of a Dense or EinsumDense in fewer bits.

    Args:
        mode: Its name, as in `quantize(model, mode)`.
    """

    def __init__(self, mode: str):
        self.mode = mode

    @abstractmethod
    def check(self, config: Any) -> None:
        """Raise `ValueError` if the storage is not available, or not with this configuration."""

    @abstractmethod
    def round(self, layer: keras.layers.Layer, kernel: Any, config: Any = None) -> Rounded:
        """Return a kernel as a float or quantized layer of this kind would store it.

        Args:
            layer: The layer.
            kernel: The values, in the shape of the layer's kernel.
            config: The configuration; `None` for the default.
        """

    @abstractmethod
    def store(self, target: Any, config: Any = None) -> None:
        """Store the kernel of a float layer, or all such kernels of a model."""

    @abstractmethod
    def config_of(self, layer: keras.layers.Layer) -> Any:
        """Return the configuration of a layer with this storage."""

    @abstractmethod
    def grouped(self, size: int) -> Any:
        """Return the configuration for groups of a size; `None` if there are no groups.

        Args:
            size: Number of values with one scale; -1 for all inputs of an output.
        """

    @abstractmethod
    def make_float(self, layer: keras.layers.Layer, kernel: Any, policy: Any) -> Callable[[], None]:
        """Replace the stored kernel of a layer by a float kernel.

        Returns:
            A function that restores the stored kernel.
        """
