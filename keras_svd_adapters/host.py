"""What a Dense or EinsumDense becomes while it carries adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.adapter import Adapter
from keras_svd_adapters.keras_internals import (
    attach_child,
    detach_child,
    graft,
    pin,
    ungraft,
    unpin,
)
from keras_svd_adapters.kernel import KernelView

PREFIX = "adapter_"


class AdaptedLayer:
    """Mixin that adds the active adapter's output to a Dense or EinsumDense.

    Mixed into the class of a layer by `attach`. The layer keeps its kernel,
    bias and activation; its adapters are child layers named `adapter_<name>`,
    of which at most one is active.
    """

    carried_adapters: tuple[str, ...] = ()
    active_adapter: str | None = None
    reads_base: bool = False

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.active_adapter is None or self.reads_base:
            with self.base():
                return super().call(inputs, training=training)  # type: ignore[misc]
        adapter = self.adapter()
        x = adapter.view.flatten_input(inputs)
        y = adapter.view.unflatten_output(adapter.adapt(x, self._base_projection, training))
        if self.bias is not None:  # type: ignore[attr-defined]
            y = ops.add(y, self.bias)  # type: ignore[attr-defined]
        if self.activation is not None:  # type: ignore[attr-defined]
            y = self.activation(y)  # type: ignore[attr-defined]
        return y

    def _base_projection(self, x: Any, delta: Any = None) -> Any:
        """`x (K + delta)` by the layer's own operation, so that it is bit for bit its own."""
        view = self.adapter().view
        kernel = self.base_kernel
        if delta is not None:
            kernel = ops.add(kernel, view.from_matrix(delta))
        x = view.unflatten_input(x)
        if isinstance(self, keras.layers.EinsumDense):
            return view.flatten_output(ops.einsum(self.equation, x, kernel))
        return ops.matmul(x, kernel)

    @property
    def base_kernel(self) -> keras.Variable:
        """The kernel variable, without any adapter."""
        with self.base():
            return self.kernel

    @property
    def kernel(self) -> Any:
        """The effective kernel, for code that reads it instead of calling the layer."""
        base = super().kernel  # type: ignore[misc]
        if self.active_adapter is None or self.reads_base:
            return base
        return ops.cast(self.merged_kernel(), base.dtype)

    def merged_kernel(self) -> Any:
        """The effective kernel in float32."""
        kernel = ops.convert_to_tensor(self.base_kernel)
        return ops.add(ops.cast(kernel, "float32"), self.adapter().delta(kernel))

    def adapter(self) -> Adapter:
        """The active adapter."""
        return getattr(self, PREFIX + str(self.active_adapter))

    @contextmanager
    def base(self) -> Iterator[None]:
        """Within, the layer is the one that it was before it was adapted."""
        before = self.reads_base
        _remember(self, "reads_base", True)
        try:
            yield
        finally:
            _remember(self, "reads_base", before)

    def save_own_variables(self, store: Any) -> None:
        with self.base():
            super().save_own_variables(store)  # type: ignore[misc]

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        refuse_keras_lora(self.path)  # type: ignore[attr-defined]

    def __dir__(self) -> list[str]:
        # Saving reads every attribute; computing the effective kernel for that would be slow.
        return [name for name in super().__dir__() if name != "kernel"]


def refuse_keras_lora(where: str) -> None:
    """Raises: Keras's own LoRA on what has an adapter of ours."""
    raise ValueError(
        "An adapter of keras_svd_adapters is there, and Keras's own LoRA would be a second one. "
        "Use `keras_svd_adapters.enable(model, LoRA(...))`, or `merge` first. "
        f"Received: enable_lora on {where}"
    )


def attach(layer: keras.layers.Layer, name: str, adapter: Adapter) -> None:
    """Gives a layer an adapter and makes it the active one."""
    if not isinstance(layer, AdaptedLayer):
        graft(layer, AdaptedLayer)
    attach_child(layer, PREFIX + name, adapter)
    adapter.kernel = lambda: ops.convert_to_tensor(layer.base_kernel)
    _remember(layer, "carried_adapters", (*layer.carried_adapters, name))
    activate(layer, name)


def detach(layer: keras.layers.Layer, name: str) -> None:
    """Takes back `attach`."""
    detach_child(layer, PREFIX + name)
    _remember(layer, "carried_adapters", tuple(n for n in layer.carried_adapters if n != name))
    if layer.active_adapter == name:
        _remember(layer, "active_adapter", None)
    if not layer.carried_adapters:
        for attribute in ("carried_adapters", "active_adapter", "reads_base"):
            vars(layer).pop(attribute, None)
        ungraft(layer, AdaptedLayer)


def activate(layer: keras.layers.Layer, name: str | None) -> None:
    """Makes one adapter of a layer the active one; the others rest and do not train."""
    for other, adapter in adapters_of(layer).items():
        for variable in adapter.trained.values():
            if other == name:
                unpin(variable)
                variable.trainable = True
            else:
                pin(variable)
    _remember(layer, "active_adapter", name)


def adapters_of(layer: keras.layers.Layer) -> dict[str, Adapter]:
    """The adapters of a layer by name."""
    return {name: getattr(layer, PREFIX + name) for name in getattr(layer, "carried_adapters", ())}


def _remember(layer: keras.layers.Layer, attribute: str, value: Any) -> None:
    """Sets an attribute that Keras and the backend need not know of."""
    object.__setattr__(layer, attribute, value)


def view_of(layer: keras.layers.Layer) -> KernelView:
    """The kernel of a built Dense or EinsumDense as a matrix."""
    shape = tuple(base_kernel(layer).shape)
    if isinstance(layer, keras.layers.EinsumDense):
        return KernelView.from_equation(layer.equation, shape)
    return KernelView.from_dense(shape)


def base_kernel(layer: keras.layers.Layer) -> keras.Variable:
    """The kernel variable of a layer, adapted or not."""
    return layer.base_kernel if isinstance(layer, AdaptedLayer) else layer.kernel
