"""Trained arrays that all kernels of an adapter read, such as TinyLoRA's vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.stored_arrays import StoredArrays
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.method import Method


class TiedArrays(StoredArrays):
    """Layer that stores the tied arrays of an adapter; a child of the adapter of each kernel.

    A new adapter of a kernel has arrays of its own, until `tie_arrays` joins those of one name.

    Args:
        method: The `Method` that the arrays belong to.
        declared: The arrays by name.
        values: Initial values of the arrays that declare no `start`. Without them, the arrays
            have no values until weights are loaded.
        dtype: Dtype policy of the adapted layer.
    """

    def __init__(
        self,
        method: Method,
        declared: Mapping[str, Array],
        values: Mapping[str, np.ndarray] | None,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype, name=f"tied_{method.name}")
        self.method = method
        self.has_values = values is not None
        self.shapes = {name: array.shape for name, array in declared.items()}
        self.drawn = [name for name, array in declared.items() if array.start is None]
        for name, array in declared.items():
            start = (values or {}).get(name, array.start or 0)
            self.add_array(name, array.shape, array.dtype, start, trainable=True)
        self.built = True

    def array_names(self) -> Iterable[str]:
        return self.shapes

    def uninitialized(self) -> list[keras.Variable]:
        return [getattr(self, name) for name in self.drawn or self.shapes]
