"""Placement of an adapter's arrays for kernels sharded over devices (JAX)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras

from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.runtime.keras_private.variables import layout_of, set_layout, stored_value


def array_layout(kernel: keras.Variable, view: KernelView, axes: str) -> Any:
    """Return the layout of an adapter's array for a kernel; `None` leaves the layout to Keras.

    The array's `m` axis is sharded as the kernel's first input axis is. The `n` axis follows the
    first output axis, and the `s` axis follows the first stacked axis. Any other axis is replicated
    on every device. The patterns of Keras's own `LayoutMap` match the names of base weights, so the
    function does not use that map.

    Args:
        kernel: The kernel of the layer.
        view: The view of the kernel as a matrix.
        axes: Axis letters, as in `methods.contract.Array`.
    """
    sharding = sharding_of(kernel)
    if not hasattr(sharding, "spec") or tuple(kernel.shape) != view.shape:
        return None
    from jax.sharding import NamedSharding, PartitionSpec

    spec = [*sharding.spec, *[None] * (len(view.shape) - len(sharding.spec))]
    return NamedSharding(sharding.mesh, PartitionSpec(*array_axes(spec, view, axes)))


def array_axes(cuts: Sequence[Any], view: KernelView, axes: str) -> list[Any]:
    """Return the mesh axes that shard an adapter's array, for a kernel sharded by `cuts`."""
    groups = {"m": view.rows, "n": view.columns, "s": view.stack}
    return [cuts[groups[axis][0]] if groups.get(axis) else None for axis in axes]


def mesh_axes(cut: Any) -> list[str]:
    """Return the mesh axes that shard one axis of an array: none, one or several."""
    return [cut] if isinstance(cut, str) else list(cut or ())


@contextmanager
def without_layout_map() -> Iterator[None]:
    """Context manager: create variables without a `LayoutMap`; `place_variable` places them."""
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
    """Context manager: copy new variables to every device that holds the kernel (TensorFlow)."""
    strategy = getattr(kernel.value, "distribute_strategy", None)
    return nullcontext() if strategy is None else strategy.scope()


def is_replica() -> bool:
    """Return whether this thread computes one replica of a step (TensorFlow)."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context())


def place_variable(variable: keras.Variable, layout: Any = None) -> None:
    """Place a variable made `without_layout_map`; without a layout, replicate it on all devices."""
    distribution = keras.distribution.distribution()
    if layout is None and distribution is not None and keras.backend.backend() == "jax":
        whole = [None] * len(variable.shape)
        layout = keras.distribution.TensorLayout(whole, distribution.device_mesh)
    apply_layout(variable, layout)


def sharding_of(variable: keras.Variable) -> Any:
    """Return the JAX sharding of a variable; `None` on other backends, or without a value yet."""
    return getattr(variable.value, "sharding", None) if stored_value(variable) is not None else None


def apply_layout(variable: keras.Variable, layout: Any) -> None:
    """Place a variable on the devices by a layout, now and at each later assignment (JAX)."""
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
    """Context manager: restore the layouts of these variables if an error occurs."""
    before = [(v, layout_of(v)) for v in variables]
    try:
        yield
    except BaseException:
        for variable, layout in before:
            if layout_of(variable) is not layout:
                apply_layout(variable, layout)
        raise


def format_layout(variable: keras.Variable) -> str:
    """Return the sharding of each axis of a variable, such as `(model, -)`; `-` is not sharded."""
    spec = getattr(sharding_of(variable), "spec", ())
    cuts = [*spec, *[None] * (len(variable.shape) - len(spec))]
    return f"({', '.join('+'.join(mesh_axes(cut)) or '-' for cut in cuts)})"


def check_layout(kernel: keras.Variable) -> None:
    """Raise `ValueError` if a kernel is on one device and new variables would be on several."""
    if keras.backend.backend() != "jax" or keras.distribution.distribution() is None:
        return
    sharding = sharding_of(kernel)
    if sharding is not None and not hasattr(sharding, "spec"):
        raise ValueError(
            "The model was built before `keras.distribution.set_distribution`, so it is on one "
            "device: set the distribution first, and then build or load the model. Received: "
            f"{kernel.path} on {sharding}"
        )
