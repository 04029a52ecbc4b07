"""Values of variables on the host, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """The value of a variable on the host; a float one as float32."""
    value = ops.convert_to_tensor(variable)
    if keras.backend.is_float_dtype(value.dtype):
        value = ops.cast(value, "float32")
    return ops.convert_to_numpy(value)


def starting_at(value: np.ndarray | float) -> Callable[..., Any]:
    """An initializer for a number or an array, in the memory order that a loaded value has."""

    def initial(shape: Any, dtype: Any = None) -> Any:
        return ops.cast(np.ascontiguousarray(np.broadcast_to(value, shape)), dtype)

    return initial
