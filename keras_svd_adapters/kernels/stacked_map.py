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
    if not _is_exporting():
        return ops.vectorized_map(function, values)
    count = keras.tree.flatten(values)[0].shape[0]
    each = [keras.tree.map_structure(lambda v: v[i], values) for i in range(count)]  # noqa: B023
    return ops.stack([function(value) for value in each])


def _is_exporting() -> bool:
    if keras.backend.backend() != "torch":
        return False
    import torch

    is_exporting = getattr(
        torch.compiler, "is_exporting", torch.compiler.is_compiling
    )  # old PyTorch
    return bool(is_exporting())
