"""Dense and EinsumDense while they carry adapters."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from keras_svd_adapters.host import AdaptedLayer, Operation, base_kernel
from keras_svd_adapters.kernel import KernelView


class AdaptedProjection(AdaptedLayer):
    """Mixin for layers that multiply their input with a kernel."""

    adapts: ClassVar[tuple[type, ...]] = (keras.layers.Dense, keras.layers.EinsumDense)

    @staticmethod
    def view(layer: keras.layers.Layer) -> KernelView:
        shape = tuple(base_kernel(layer).shape)
        if isinstance(layer, keras.layers.EinsumDense):
            return KernelView.from_equation(layer.equation, shape)
        return KernelView.from_dense(shape)

    @staticmethod
    def obstacle(layer: keras.layers.Layer) -> str | None:
        if layer.kernel_constraint is not None:
            return "its kernel has a constraint, which an adapter would not obey"
        return None

    @property
    def kernel(self) -> Any:
        """The effective kernel."""
        return self.effective(super().kernel)  # type: ignore[misc]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.rests:
            with self.base():
                return super().call(inputs, training=training)  # type: ignore[misc]
        adapter = self.adapter()
        operation = Operation(self._product, ops.matmul)
        y = adapter.adapt(adapter.view.flatten_input(inputs), operation, training)
        y = adapter.view.unflatten_output(y)
        if self.bias is not None:  # type: ignore[attr-defined]
            y = ops.add(y, self.bias)  # type: ignore[attr-defined]
        if self.activation is not None:  # type: ignore[attr-defined]
            y = self.activation(y)  # type: ignore[attr-defined]
        return y

    def _product(self, x: Any, delta: Any = None) -> Any:
        """`x (K + delta)` by the layer's own operation, so that it is bit for bit its own."""
        view = self.adapter().view
        kernel = self.base_kernel
        if delta is not None:
            kernel = ops.add(kernel, view.from_matrix(delta))
        x = view.unflatten_input(x)
        if isinstance(self, keras.layers.EinsumDense):
            return view.flatten_output(ops.einsum(self.equation, x, kernel))
        return ops.matmul(x, kernel)
