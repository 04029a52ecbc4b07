"""Where the arrays of an adapter lie, if its kernel lies in parts on several devices (JAX)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from typing import Any

import keras

from keras_svd_adapters.keras_variables import has_value, layout_of, set_layout
from keras_svd_adapters.kernel import KernelView


def layout_beside(kernel: keras.Variable, view: KernelView, axes: str) -> Any:
    """The layout of an array beside a kernel; `None` leaves it to Keras.

    Its `m` axis is cut as the kernel's first input axis is, its `n` axis as the first output axis,
    its `s` axis as the first along which kernels are stacked; any other is whole on every device.
    Keras's own `LayoutMap` is not asked: its patterns are for the names of base weights.

    Args:
        kernel: The kernel of the layer.
        view: The same as a matrix.
        axes: As `methods.method.Array` has them.
    """
    sharding = sharding_of(kernel)
    if not hasattr(sharding, "spec") or tuple(kernel.shape) != view.shape:
        return None
    from jax.sharding import NamedSharding, PartitionSpec

    spec = [*sharding.spec, *[None] * (len(view.shape) - len(sharding.spec))]
    return NamedSharding(sharding.mesh, PartitionSpec(*axes_beside(spec, view, axes)))


def axes_beside(cuts: Sequence[Any], view: KernelView, axes: str) -> list[Any]:
    """By which axis of the mesh an array beside a kernel is cut, that is cut as `cuts` says."""
    groups = {"m": view.rows, "n": view.columns, "s": view.stack}
    return [cuts[groups[axis][0]] if groups.get(axis) else None for axis in axes]


def mesh_axes(cut: Any) -> list[str]:
    """The axes of the mesh by which one axis of an array is cut: none, one or several."""
    return [cut] if isinstance(cut, str) else list(cut or ())


@contextmanager
def unasked() -> Iterator[None]:
    """Within, no `LayoutMap` is asked where new variables lie: they wait for `place`."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        yield
        return
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def mirrored_as(kernel: keras.Variable) -> AbstractContextManager[Any]:
    """Within, new variables are copied to the devices that a kernel is copied to (TensorFlow)."""
    strategy = getattr(kernel.value, "distribute_strategy", None)
    return nullcontext() if strategy is None else strategy.scope()


def place(variable: keras.Variable, layout: Any = None) -> None:
    """Lays out a variable that was made `unasked`; without a layout, whole on every device."""
    distribution = keras.distribution.distribution()
    if layout is None and distribution is not None and keras.backend.backend() == "jax":
        whole = [None] * len(variable.shape)
        layout = keras.distribution.TensorLayout(whole, distribution.device_mesh)
    lay_out(variable, layout)


def sharding_of(variable: keras.Variable) -> Any:
    """How JAX has spread a variable over devices; `None` elsewhere, or without a value yet."""
    return getattr(variable.value, "sharding", None) if has_value(variable) else None


def lay_out(variable: keras.Variable, layout: Any) -> None:
    """Lets a variable lie on the devices as a layout says, now and when it is assigned (JAX)."""
    if layout is None:
        return
    before = layout_of(variable)
    set_layout(variable, layout)
    try:
        variable.assign(variable.value)
    except BaseException:
        set_layout(variable, before)
        raise


@contextmanager
def laid_out_as_before_on_failure(variables: list[keras.Variable]) -> Iterator[None]:
    """Within, whatever goes wrong, the variables lie where they lay."""
    before = [(v, layout_of(v)) for v in variables]
    try:
        yield
    except BaseException:
        for variable, layout in before:
            if layout_of(variable) is not layout:
                lay_out(variable, layout)
        raise


Layouts = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...] | None]


def check_layouts(layouts: Layouts | None, shapes: Callable[[], Shapes]) -> Any:
    """The `LayoutMap` of what a user asks for; raises where it cannot be.

    Args:
        layouts: From patterns for paths to axes of the mesh; `None` for nothing.
        shapes: Gives the paths and shapes of the variables that there may be; `None` for a
            shape that is not known yet.
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
            "`layout` goes from regular expressions for paths to tuples with an axis of the mesh "
            f"or None for each axis, as {{'.*lora_a': ({distribution.device_mesh.axis_names[0]!r}, "
            f"None)}}: {error}. Received: layout={layouts!r}"
        ) from None
    for pattern, layout in asked.items():
        if not any(each is layout for each in found.values()):
            raise ValueError(
                "A pattern of `layout` matches no variable of the adapter. It is a regular "
                f"expression for the whole of a path: such are {', '.join([*known][:3])}. "
                f"Received: {pattern!r}"
            )
    for path, layout in found.items():
        if layout is not None and (shape := known[path]) is not None:
            _check_division(path, shape, layout)
    return asked


def override(layouts: Any, variables: list[keras.Variable]) -> None:
    """Lays out variables as a `LayoutMap` of `check_layouts` says."""
    if layouts is None:
        return
    with laid_out_as_before_on_failure(variables):
        for variable in variables:
            if (layout := layouts[variable.path]) is not None:
                _check_division(variable.path, tuple(variable.shape), layout)
                lay_out(variable, layout)


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


def shown_layout(variable: keras.Variable) -> str:
    """How a variable is cut along each of its axes, such as `(model, -)`; `-` is not at all."""
    spec = getattr(sharding_of(variable), "spec", ())
    cuts = [*spec, *[None] * (len(variable.shape) - len(spec))]
    return f"({', '.join('+'.join(mesh_axes(cut)) or '-' for cut in cuts)})"


def check_layout(kernel: keras.Variable) -> None:
    """Raises where a kernel lies on one device and new variables would lie on several."""
    if keras.backend.backend() != "jax" or keras.distribution.distribution() is None:
        return
    sharding = sharding_of(kernel)
    if sharding is not None and not hasattr(sharding, "spec"):
        raise ValueError(
            "The model was built before `keras.distribution.set_distribution`, and lies on one "
            "device: set the distribution first, and then build or load the model. "
            f"Received: {kernel.path} on {sharding}"
        )
