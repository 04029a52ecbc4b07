"""The frozen arrays that all kernels of a model share, such as VeRA's random pair."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from keras_svd_adapters.adapters.stored_arrays import StoredArrays
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.runtime.host_values import to_float_array

Shapes = dict[str, tuple[int, ...]]


class SharedArrays(StoredArrays):
    """Layer that stores the shared arrays of a model once; a child of each adapter that reads them.

    Args:
        method: The `Method` that the arrays belong to.
        shapes: Shapes of the arrays, large enough for every kernel.
        values: Values of the arrays. Without them, the arrays have no values until
            weights are loaded.
        dtype: Dtype of the arrays.
    """

    def __init__(
        self,
        method: Method,
        shapes: Shapes,
        values: dict[str, np.ndarray] | None = None,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype, name=f"shared_{method.name}")
        self.method = method
        self.shapes = shapes
        self.has_values = values is not None
        self.mark = b""
        for name, shape in shapes.items():
            self.add_array(name, shape, self.compute_dtype, 0 if values is None else values[name])
        self.built = True
        if self.has_values:
            self.mark = self.digest()

    def array_names(self) -> Iterable[str]:
        return self.shapes

    def part(self, name: str, shape: tuple[int, ...]) -> Any:
        """Return the leading part of an array, as a kernel reads it."""
        whole = ops.convert_to_tensor(getattr(self, name))
        return whole if tuple(whole.shape) == shape else whole[tuple(map(slice, shape))]

    def digest(self) -> bytes:
        """Return a hash of the values: the fingerprint by which an adapter knows its arrays."""
        sha256 = hashlib.sha256()
        for variable in self.arrays.values():
            sha256.update(np.ascontiguousarray(to_float_array(variable)).tobytes())
        return sha256.digest()

    def on_values_loaded(self) -> None:
        self.mark = self.digest()


def covering_shapes(arrays: list[dict[str, Array]]) -> Shapes:
    """Return shapes of the shared arrays that are large enough for each of several kernels."""
    shapes: Shapes = {}
    for declared in arrays:
        for name, array in declared.items():
            if array.shared:
                known = shapes.get(name, array.shape)
                shapes[name] = tuple(map(max, known, array.shape))
    return shapes


def check_agreement(methods: list[Method]) -> None:
    """Raise an error if methods that would share arrays differ in the fields that define these."""
    first: dict[str, Method] = {}
    for method in methods:
        if not method.shared_by:
            continue
        other = first.setdefault(method.name, method)
        for field in method.shared_by:
            ours, theirs = getattr(method, field), getattr(other, field)
            if ours != theirs:
                raise ValueError(
                    f"All {type(method).__name__} adapters of a model share the same random "
                    f"arrays, so their `{field}` must agree: use `{field}={theirs!r}`, or "
                    f"`delete_adapter` the other one first. Received: {field}={ours!r}, and "
                    f"{other} on the model"
                )


def check_room(shared: SharedArrays, shapes: Shapes) -> None:
    """Raise an error if a kernel needs larger shared arrays than the model has."""
    for name, shape in shapes.items():
        there = shared.shapes.get(name, (0,) * len(shape))
        if any(need > have for need, have in zip(shape, there, strict=True)):
            raise ValueError(
                f"`{name}`, which all {shared.method.name} adapters of this model share, was made "
                f"for smaller kernels: {there}. Adapt the larger kernels first, or "
                f"leave them out with `exclude`. Received: kernels that need {shape}"
            )
