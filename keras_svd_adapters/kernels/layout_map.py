"""User-defined layouts for the arrays of adapters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import keras

from keras_svd_adapters.kernels.placement import apply_layout, mesh_axes, restore_layout_on_error

Layouts = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...] | None]


def check_layouts(layouts: Layouts | None, shapes: Callable[[], Shapes]) -> Any:
    """Return the user's layouts as a `LayoutMap`; raise `ValueError` if they are invalid.

    Args:
        layouts: Mapping from patterns of paths to axes of the mesh; `None` for
            no layouts.
        shapes: Function that returns the paths and shapes of the possible
            variables; `None` for a shape that is not known yet.
    """
    if layouts is None:
        return None
    distribution = keras.distribution.distribution()
    if distribution is None or keras.backend.backend() != "jax":
        raise ValueError(
            "`layout` spreads an adapter over the devices of a distribution: call "
            "`keras.distribution.set_distribution` first, on JAX. "
            f"Received: layout={layouts!r}"
        )
    known = shapes()
    asked = keras.distribution.LayoutMap(distribution.device_mesh)
    try:
        for pattern, layout in layouts.items():
            re.compile(pattern)
            asked[pattern] = tuple(layout) if isinstance(layout, list) else layout
        found = {path: asked[path] for path in known}
    except (ValueError, AttributeError, TypeError, re.error) as error:
        raise ValueError(
            "`layout` maps regular expressions for paths to tuples with an axis of the mesh or "
            f"None for each axis, as {{'.*lora_a': ({distribution.device_mesh.axis_names[0]!r}, "
            f"None)}}: {error}. Received: layout={layouts!r}"
        ) from None
    for pattern, layout in asked.items():
        if not any(each is layout for each in found.values()):
            raise ValueError(
                "A pattern of `layout` matches no variable of the adapter. It is a regular "
                f"expression that must match a whole path, such as {', '.join([*known][:3])}. "
                f"Received: {pattern!r}"
            )
    for path, layout in found.items():
        if layout is not None and (shape := known[path]) is not None:
            _check_division(path, shape, layout)
    return asked


def override(layouts: Any, variables: list[keras.Variable]) -> None:
    """Apply a `LayoutMap` of `check_layouts` to variables."""
    if layouts is None:
        return
    with restore_layout_on_error(variables):
        for variable in variables:
            if (layout := layouts[variable.path]) is not None:
                _check_division(variable.path, tuple(variable.shape), layout)
                apply_layout(variable, layout)


def _check_division(path: str, shape: tuple[int, ...], layout: Any) -> None:
    mesh = dict(zip(layout.device_mesh.axis_names, layout.device_mesh.shape, strict=True))
    if len(layout.axes) != len(shape):
        raise ValueError(
            f"The layout of {path} names an axis of the mesh, or None, for each of its "
            f"{len(shape)} axes. Received: {layout.axes}"
        )
    cuts = [mesh_axes(cut) for cut in layout.axes]
    used = [axis for axes in cuts for axis in axes]
    if len(used) != len(set(used)):
        raise ValueError(
            f"The layout of {path} cuts two axes by the same axis of the mesh: give one of them "
            f"None. Received: {layout.axes}"
        )
    for size, axes in zip(shape, cuts, strict=True):
        parts = prod(mesh[axis] for axis in axes)
        if size % parts:
            raise ValueError(
                f"{path} cannot be cut into {parts} parts along an axis of {size}: give that axis "
                f"None, or another size. Received: {layout.axes} for {shape}"
            )
