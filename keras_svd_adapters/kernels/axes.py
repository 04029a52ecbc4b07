"""Axes of kernels and their inputs, rearranged into matrix order."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_svd_adapters.methods.algebra import reshape

Shape = tuple[int, ...]


def are_last(axes: Shape) -> bool:
    return axes == tuple(range(-len(axes), 0))


def _gather_axes(x: Any, axes: Shape) -> Any:
    """Move `axes` to the end, in the order given, and merge them into one."""
    if not are_last(axes):
        x = ops.moveaxis(x, axes, tuple(range(-len(axes), 0)))
    if len(axes) == 1:
        return x
    return reshape(x, (*leading_shape(x, len(axes)), math.prod(x.shape[-len(axes) :])))


def _scatter_axes(x: Any, axes: Shape, sizes: Shape) -> Any:
    """Undo `_gather_axes`."""
    if len(axes) > 1:
        x = reshape(x, (*leading_shape(x, 1), *sizes))
    if are_last(axes):
        return x
    return ops.moveaxis(x, tuple(range(-len(axes), 0)), axes)


def leading_shape(x: Any, trailing: int) -> tuple[Any, ...]:
    """Return the shape before the last axes, with at most one unknown size (-1)."""
    dynamic = ops.shape(x)[:-trailing]
    static = x.shape[:-trailing]
    if sum(size is None for size in static) <= 1:
        return tuple(-1 if size is None else size for size in static)
    return tuple(dynamic)


def as_rows(x: Any) -> Any:
    """Return `(..., m)` as `(rows, m)`."""
    return x if len(x.shape) == 2 else reshape(x, (-1, x.shape[-1]))
