"""Where the arrays of an adapter lie, if its kernel lies in parts on several devices (JAX)."""

from __future__ import annotations

from typing import Any

import keras

from keras_svd_adapters.keras_internals import sharding_of
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
    groups = {"m": view.rows, "n": view.columns, "s": view.stack}
    cuts = [spec[groups[axis][0]] if groups.get(axis) else None for axis in axes]
    return NamedSharding(sharding.mesh, PartitionSpec(*cuts))


def shown_layout(variable: keras.Variable) -> str:
    """How a variable is cut along each of its axes, such as `(model, -)`; `-` is not at all."""
    spec = getattr(sharding_of(variable), "spec", ())
    cuts = [*spec, *[None] * (len(variable.shape) - len(spec))]
    shown = (
        "-" if cut is None else "+".join([cut] if isinstance(cut, str) else cut) for cut in cuts
    )
    return f"({', '.join(shown)})"


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
