"""A weight that its layer reads, as something that can carry adapters."""

from __future__ import annotations

import weakref
from functools import cache, partial
from typing import Any, ClassVar

import keras

from keras_svd_adapters.host import AdaptedLayer
from keras_svd_adapters.keras_internals import attach_child, detach_child, graft, ungraft
from keras_svd_adapters.kernel import KernelView
from keras_svd_adapters.kernel_register import kernel_axes


class ReadKernel(keras.layers.Layer):
    """Stands for one weight of a layer, and is its child while it carries adapters.

    It owns no weight and is never called: while an adapter is active, the attribute of the layer
    gives the effective kernel.

    Args:
        holder: The layer.
        attribute: Where it holds the weight.
        axes: As in `register_kernels`.
    """

    def __init__(self, holder: keras.layers.Layer, attribute: str, axes: str):
        super().__init__(name=attribute.strip("_"), dtype=holder.dtype_policy)
        self.attribute = attribute
        self.axes = axes
        self._known = weakref.ref(holder)
        self.built = True

    def holder(self) -> keras.layers.Layer:
        """The layer that reads the weight; no attribute, which saving would follow."""
        holder = self._known()
        assert holder is not None
        return holder

    @property
    def kernel(self) -> keras.Variable:
        """The weight, whatever adapts it."""
        return held(self.holder(), self.attribute)


class AdaptedReadKernel(AdaptedLayer):
    """Mixin for a `ReadKernel` with adapters."""

    adapts: ClassVar[tuple[type, ...]] = (ReadKernel,)
    called: ClassVar[bool] = False

    @staticmethod
    def view(layer: keras.layers.Layer) -> KernelView:
        return KernelView.from_axes(layer.axes, tuple(layer.kernel.shape))

    @staticmethod
    def obstacle(layer: keras.layers.Layer) -> str | None:
        if len(layer.axes) != len(layer.kernel.shape):
            return f"it was registered with the axes {layer.axes!r} for {layer.kernel.shape}"
        if layer.kernel.constraint is not None:
            return "its kernel has a constraint, which an adapter would not obey"
        return None

    @staticmethod
    def join(layer: keras.layers.Layer) -> None:
        holder = layer.holder()
        attach_child(holder, place(layer.attribute), layer)
        if not isinstance(holder, ReadsAdapted):
            graft(holder, _reading(tuple(kernel_axes(holder))))

    @staticmethod
    def leave(layer: keras.layers.Layer) -> None:
        holder = layer.holder()
        detach_child(holder, place(layer.attribute))
        if not any(hasattr(holder, place(attribute)) for attribute in holder.attributes):
            ungraft(holder, ReadsAdapted)


class ReadsAdapted:
    """Mixin for a layer some of whose kernels carry adapters."""

    attributes: ClassVar[tuple[str, ...]] = ()

    def __dir__(self) -> list[str]:
        # Saving reads every attribute; computing effective kernels for that would be slow.
        return [name for name in super().__dir__() if name not in self.attributes]


@cache
def _reading(attributes: tuple[str, ...]) -> type:
    """A `ReadsAdapted` for kernels in these attributes."""
    found = {attribute: property(partial(_read, attribute=attribute)) for attribute in attributes}
    return type("ReadsAdapted", (ReadsAdapted,), {**found, "attributes": attributes})


def _read(holder: Any, attribute: str) -> Any:
    base = held(holder, attribute)
    kernel = getattr(holder, place(attribute), None)
    return base if kernel is None else kernel.effective(base)


def held(holder: Any, attribute: str) -> Any:
    """What an attribute of a layer holds, without any adapter."""
    if not isinstance(holder, ReadsAdapted):
        return getattr(holder, attribute, None)
    own = vars(holder)
    return own[attribute] if attribute in own else getattr(super(ReadsAdapted, holder), attribute)


def place(attribute: str) -> str:
    """Where a layer has the `ReadKernel` of one of its weights."""
    return f"kernel_of_{attribute.strip('_')}"


def kernels_read(layer: keras.layers.Layer) -> list[ReadKernel]:
    """The kernels that a built layer reads."""
    if not layer.built:
        return []
    return [
        getattr(layer, place(attribute), None) or ReadKernel(layer, attribute, axes)
        for attribute, axes in kernel_axes(layer).items()
        if isinstance(held(layer, attribute), keras.Variable)
    ]
