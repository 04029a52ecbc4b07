"""Assignment of one row of a variable, in place, without a copy of the other rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops


def assign_row(variable: keras.Variable, row: int, value: np.ndarray) -> None:
    """Give one row of a variable new values.

    With JAX, no other thread may use the variable meanwhile: its memory is reused.
    """
    new = ops.convert_to_tensor(value[None], dtype=variable.dtype)
    if keras.backend.backend() == "jax":
        variable.assign(_updater()(variable.value, row, new))
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        variable.value.scatter_update(tf.IndexedSlices(new, tf.constant([row])))
    else:
        variable.value.detach()[row : row + 1] = new


@cache
def _updater() -> Callable[..., Any]:
    """Return a function that JAX compiles once for each shape."""
    import jax

    return jax.jit(lambda rows, row, value: rows.at[row].set(value[0]), donate_argnums=0)
