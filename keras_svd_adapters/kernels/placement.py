"""Where the arrays of an adapter lie, if its kernel lies in parts on several devices (JAX)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras

from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.runtime.keras_private.variables import has_value, layout_of, set_layout


def array_layout(kernel: keras.Variable, view: KernelView, axes: str) -> Any:
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
    return NamedSharding(sharding.mesh, PartitionSpec(*array_axes(spec, view, axes)))


def array_axes(cuts: Sequence[Any], view: KernelView, axes: str) -> list[Any]:
    """By which axis of the mesh an array beside a kernel is cut, that is cut as `cuts` says."""
    groups = {"m": view.rows, "n": view.columns, "s": view.stack}
    return [cuts[groups[axis][0]] if groups.get(axis) else None for axis in axes]


def mesh_axes(cut: Any) -> list[str]:
    """The axes of the mesh by which one axis of an array is cut: none, one or several."""
    return [cut] if isinstance(cut, str) else list(cut or ())


@contextmanager
def without_layout_map() -> Iterator[None]:
    """Within, no `LayoutMap` is asked where new variables lie: they wait for `place_variable`."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        yield
        return
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def mirrored_scope(kernel: keras.Variable) -> AbstractContextManager[Any]:
    """Within, new variables are copied to the devices that a kernel is copied to (TensorFlow)."""
    strategy = getattr(kernel.value, "distribute_strategy", None)
    return nullcontext() if strategy is None else strategy.scope()


def place_variable(variable: keras.Variable, layout: Any = None) -> None:
    """Place a variable made `without_layout_map`; without a layout, whole on every device."""
    distribution = keras.distribution.distribution()
    if layout is None and distribution is not None and keras.backend.backend() == "jax":
        whole = [None] * len(variable.shape)
        layout = keras.distribution.TensorLayout(whole, distribution.device_mesh)
    apply_layout(variable, layout)


def sharding_of(variable: keras.Variable) -> Any:
    """How JAX has spread a variable over devices; `None` elsewhere, or without a value yet."""
    return getattr(variable.value, "sharding", None) if has_value(variable) else None


def apply_layout(variable: keras.Variable, layout: Any) -> None:
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
def restore_layout_on_error(variables: list[keras.Variable]) -> Iterator[None]:
    """Within, whatever goes wrong, the variables lie where they lay."""
    before = [(v, layout_of(v)) for v in variables]
    try:
        yield
    except BaseException:
        for variable, layout in before:
            if layout_of(variable) is not layout:
                apply_layout(variable, layout)
        raise


def format_layout(variable: keras.Variable) -> str:
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
