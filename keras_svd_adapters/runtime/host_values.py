"""Transfer of variable values to the host and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.runtime.host_memory import on_device
from keras_svd_adapters.runtime.processes import gather_to_host, process_count


def to_float_array(variable: Any) -> np.ndarray:
    """Return the value of a variable on the host; floats become float32, but float64 stays."""
    value = ops.convert_to_tensor(on_device(variable))
    dtype = keras.backend.standardize_dtype(value.dtype)
    if dtype != "float64" and keras.backend.is_float_dtype(dtype):
        if process_count() > 1:  # cast after the transfer
            return gather_to_host(value).astype("float32")
        value = ops.cast(value, "float32")
    return gather_to_host(value)


def to_host_exact(value: Any) -> np.ndarray:
    """Return a value on the host, bit for bit, in the same number of bytes."""
    value = ops.convert_to_tensor(on_device(value))  # JAX may store fewer bytes than the dtype has
    return to_float_array(value).astype(keras.backend.standardize_dtype(value.dtype))


@contextmanager
def restore_values_on_error(variables: Iterable[keras.Variable]) -> Iterator[None]:
    """Context manager: restore the values of these variables if an error occurs."""
    before = [(variable, to_float_array(variable)) for variable in variables]
    try:
        yield
    except BaseException:
        for variable, value in before:
            variable.assign(value)
        raise


def initializer_of(value: np.ndarray | float) -> Callable[..., Any]:
    """Return an initializer for a number or an array, in the memory order of a loaded value."""

    def initial(shape: Any, dtype: Any = None) -> Any:
        return ops.cast(np.ascontiguousarray(np.broadcast_to(value, shape)), dtype)

    return initial


def to_float64(value: Any) -> np.ndarray:
    """Return a variable or tensor on the host: floats as float64, integers unchanged."""
    array = to_float_array(value)
    return array.astype("float64") if array.dtype.kind == "f" else array


def cast_float(value: Any, dtype: str) -> Any:
    """Return a tensor of floats in a dtype, and one of integers unchanged.

    TensorFlow takes a variable for a tensor, but reads it at each use: the cast reads it once.
    """
    found = _name_of(value.dtype)
    is_cast = found != dtype or isinstance(value, keras.Variable)
    return ops.cast(value, dtype) if is_cast and keras.backend.is_float_dtype(found) else value


@cache
def _name_of(dtype: Any) -> str:
    """Return the name of a dtype; Keras itself takes longer than a small operation."""
    return str(keras.backend.standardize_dtype(dtype))
