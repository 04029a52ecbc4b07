"""A function mapped over the matrices of a stacked kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def map_stacked(function: Callable[[Any], Any], values: Any) -> Any:
    """Apply a function to each matrix: the values have one more axis, in front.

    `torch.export` cannot map functions that read a size, such as a sum by segments. There, the
    exported program applies the function to one matrix after the other.
    """
    return (one_by_one if _is_exporting() else ops.vectorized_map)(function, values)


def one_by_one(function: Callable[[Any], Any], values: Any) -> Any:
    """Apply a function to each part of values along their first axis; join the results."""
    count = keras.tree.flatten(values)[0].shape[0]
    each = (keras.tree.map_structure(lambda v: v[i], values) for i in range(count))  # noqa: B023
    return ops.stack([function(value) for value in each])


def _is_exporting() -> bool:
    if keras.backend.backend() != "torch":
        return False
    from torch import compiler

    in_old_versions = compiler.is_compiling
    return bool(getattr(compiler, "is_exporting", in_old_versions)())
