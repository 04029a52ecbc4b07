"""Rows of variables: written in place, without a copy of the other rows, and gathered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops


class RowWriter:
    """Function that gives one row of several variables new values, all at once.

    With JAX, no other thread may use the variables meanwhile: their memory is reused.

    Args:
        variables: Variables of two axes and one dtype, with as many rows each.
    """

    def __init__(self, variables: Sequence[keras.Variable]):
        self.variables = variables
        self.ends = np.cumsum([variable.shape[1] for variable in variables]).tolist()
        self._write = {"jax": _with_jax, "tensorflow": _with_tensorflow, "torch": _with_torch}[
            keras.backend.backend()
        ](self)

    def __call__(self, row: int, values: np.ndarray) -> None:
        """Write a row, given the values of all variables one after the other."""
        self._write(row, ops.convert_to_tensor(values, dtype=self.variables[0].dtype))

    def parts(self, values: Any) -> list[Any]:
        """Return the values of each variable."""
        ends = zip([0, *self.ends], self.ends, strict=False)
        return [values[start:end] for start, end in ends]


def take_rows(variable: keras.Variable, rows: Any) -> Any:
    """Return some rows of a variable, `(rows, ...)`; of one number, that row."""
    if keras.backend.backend() == "tensorflow":  # which would first copy a variable that is written
        import tensorflow as tf

        return tf.gather(variable.value, rows)
    return ops.take(variable, rows, axis=0)


Write = Callable[[int, Any], None]


def _with_jax(writer: RowWriter) -> Write:
    def write(row: int, values: Any) -> None:
        arrays = [variable.value for variable in writer.variables]
        for variable, new in zip(writer.variables, _jax_update()(arrays, row, values), strict=True):
            variable.assign(new)

    return write


@cache
def _jax_update() -> Callable[..., Any]:
    """Return a function that JAX compiles once for the shapes of a pool."""
    import jax

    def update(arrays: list[Any], row: Any, values: Any) -> list[Any]:
        ends = np.cumsum([array.shape[1] for array in arrays])[:-1]
        parts = jax.numpy.split(values, ends)
        return [array.at[row].set(part) for array, part in zip(arrays, parts, strict=True)]

    return jax.jit(update, donate_argnums=0)


def _with_tensorflow(writer: RowWriter) -> Write:
    import tensorflow as tf

    values_of = [variable.value for variable in writer.variables]

    @tf.function
    def update(row: Any, values: Any) -> None:
        for value, part in zip(values_of, writer.parts(values), strict=True):
            value.scatter_update(tf.IndexedSlices(part[None], row[None]))

    return lambda row, values: update(tf.constant(row), values)


def _with_torch(writer: RowWriter) -> Write:
    def write(row: int, values: Any) -> None:
        for variable, part in zip(writer.variables, writer.parts(values), strict=True):
            variable.value.detach()[row] = part

    return write
