"""Memory that an adapted model needs on each device of a distribution."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.placement import array_axes, mesh_axes
from keras_svd_adapters.methods.contract import Array

SLOTS = 2  # slots of Adam; most other optimizers have no more
HALVES = ("bfloat16", "float16")


@dataclass(frozen=True)
class DeviceBytes:
    """Bytes on each device without activations, if every axis is sharded evenly.

    Args:
        weights: Bytes of the model itself.
        frozen: Bytes of the frozen arrays of new adapters, and of the adapters
            that the model already has.
        trained: Bytes of the trained values, in float32.
        devices: Number of devices.
        memory: Bytes that a device has, if given.
        other: Bytes of the weights that also train (`train=`, `bias=`), a part of `weights`.
    """

    weights: int
    frozen: int
    trained: int
    devices: int
    memory: float | None = None
    other: int = 0

    @property
    def training(self) -> int:
        """Bytes of the gradients of the trained values and of two slots of the optimizer."""
        return (1 + SLOTS) * (self.trained + self.other)

    @property
    def total(self) -> int:
        """Bytes of weights, frozen arrays, trained values, gradients and slots together."""
        return self.weights + self.frozen + self.trained + self.training

    @property
    def fits(self) -> bool | None:
        """Whether the total is less than a device has; `None` if `memory` is not given."""
        return None if self.memory is None else self.total < self.memory

    def __str__(self) -> str:
        parts = (
            f"{_size(self.weights)} of weights, {_size(self.frozen)} of frozen factors, "
            f"{_size(self.trained + self.training)} of what trains with its gradients and slots"
        )
        verdict = ""
        if self.memory is not None:
            left = self.memory - self.total
            short = f"it lacks {_size(-left)}"
            verdict = f", and {_size(left)} are left" if self.fits else f": {short}"
        each = f"each of {self.devices} devices holds {_size(self.total)}"
        return f"{each} without activations{verdict} ({parts})"


def check_devices(distribution: Any, memory: Any) -> None:
    """Raise if the arguments are not a distribution and the bytes of a device."""
    known = keras.distribution.DataParallel, keras.distribution.ModelParallel
    if distribution is not None and not isinstance(distribution, known):
        raise ValueError(
            "`distribution` is a `keras.distribution.ModelParallel` or `DataParallel`, which has "
            f"the mesh. Received: distribution={distribution!r}"
        )
    if memory is None:
        return
    if distribution is None:
        raise ValueError(
            "`device_memory` is the memory of each device of a `distribution`: give "
            f"`distribution` too. Received: device_memory={memory!r}"
        )
    if isinstance(memory, bool) or not isinstance(memory, (int, float)) or not memory > 0:
        raise ValueError(
            "`device_memory` is a number of bytes, such as 16e9. "
            f"Received: device_memory={memory!r}"
        )


def bytes_per_device(
    distribution: Any,
    weights: Iterable[keras.Variable],
    arrays: Iterable[tuple[Array, str, KernelView, keras.Variable]],
    memory: float | None = None,
    other: Iterable[keras.Variable] = (),
) -> DeviceBytes:
    """Compute the bytes that each device would hold.

    Args:
        distribution: A `keras.distribution.Distribution`.
        weights: The weights of the model.
        arrays: The arrays of adapters, each with its dtype and its kernel.
        memory: Bytes that a device has.
        other: The weights of the model that also train.
    """
    mesh = distribution.device_mesh
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    held = {True: 0, False: 0}
    base, also = (
        sum(_share(w.shape, _axes(distribution, w), sizes, w.path) * width(w.dtype) for w in each)
        for each in (weights, other)
    )
    for array, dtype, view, kernel in arrays:
        cuts: Sequence[Any] = [None] * len(array.shape)
        if array.axes and tuple(kernel.shape) == view.shape:
            cuts = array_axes(_axes(distribution, kernel), view, array.axes)
        held[array.trainable] += _share(array.shape, cuts, sizes, kernel.path) * width(dtype)
    return DeviceBytes(base, held[False], held[True], prod(mesh.shape), memory, also)


def _axes(distribution: Any, variable: keras.Variable) -> Sequence[Any]:
    named = SimpleNamespace(path=variable.path, shape=variable.shape)  # ignores its current layout
    layout = distribution.get_variable_layout(named)
    return getattr(layout, "axes", None) or [None] * len(variable.shape)


def _share(shape: Sequence[int], axes: Sequence[Any], sizes: dict[str, int], path: str) -> int:
    """Return the number of values of an array that one device holds."""
    parts = [prod(sizes[axis] for axis in mesh_axes(cut)) for cut in axes]
    for size, part in zip(shape, parts):
        if size % part:
            raise ValueError(
                f"The mesh cuts an axis of {size} into {part} parts: choose a mesh that divides "
                f"it, or leave that axis whole in the `LayoutMap`. Received: {path} of the shape "
                f"{tuple(shape)}, cut as {tuple(axes)}"
            )
    return prod(shape) // prod(parts)


def width(dtype: str) -> int:
    """Return the bytes of one value of a dtype."""
    if dtype in HALVES:
        return 2
    return 1 if dtype in ("int4", "float8_e4m3fn", "float8_e5m2") else np.dtype(dtype).itemsize


def _size(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count > 1e8 else f"{count / 1e6:,.2f} MB"
