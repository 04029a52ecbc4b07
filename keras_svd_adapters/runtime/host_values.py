"""Values of variables on the host, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.runtime.processes import gather_to_host, process_count


def to_float_array(variable: Any) -> np.ndarray:
    """The value of a variable on the host; a float one as float32, or float64 as itself."""
    value = ops.convert_to_tensor(variable)
    dtype = keras.backend.standardize_dtype(value.dtype)
    if dtype != "float64" and keras.backend.is_float_dtype(dtype):
        if process_count() > 1:  # cast after it was sent
            return gather_to_host(value).astype("float32")
        value = ops.cast(value, "float32")
    return gather_to_host(value)


def to_host_exact(value: Any) -> np.ndarray:
    """A value on the host, bit for bit, in as many bytes."""
    value = ops.convert_to_tensor(value)  # JAX may store less than a variable's dtype says
    return to_float_array(value).astype(keras.backend.standardize_dtype(value.dtype))


@contextmanager
def restore_values_on_error(variables: Iterable[keras.Variable]) -> Iterator[None]:
    """Within, whatever goes wrong, the variables get back the values that they had."""
    before = [(variable, to_float_array(variable)) for variable in variables]
    try:
        yield
    except BaseException:
        for variable, value in before:
            variable.assign(value)
        raise


def initializer_of(value: np.ndarray | float) -> Callable[..., Any]:
    """An initializer for a number or an array, in the memory order that a loaded value has."""

    def initial(shape: Any, dtype: Any = None) -> Any:
        return ops.cast(np.ascontiguousarray(np.broadcast_to(value, shape)), dtype)

    return initial


def to_float64(value: Any) -> np.ndarray:
    """A variable or tensor on the host: floats in float64, integers as they are."""
    array = to_float_array(value)
    return array.astype("float64") if array.dtype.kind == "f" else array


def cast_float(value: Any, dtype: str) -> Any:
    """A tensor of floats in a dtype; integers as they are."""
    return ops.cast(value, dtype) if keras.backend.is_float_dtype(value.dtype) else value
