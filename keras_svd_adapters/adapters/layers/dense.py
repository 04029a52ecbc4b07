"""Dense and EinsumDense with adapters."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from keras_svd_adapters.adapters.adapted_layer import AdaptedKernel
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.operation import Operation, count_tokens
from keras_svd_adapters.adapters.per_sample import Adapt
from keras_svd_adapters.kernels.axes import leading_shape
from keras_svd_adapters.kernels.fused_products import MANY_TOKENS, sums_are_rounded_once
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.quantized import copy_without, holds_integers, kernel_shape

FEW_COLUMNS = 64


class AdaptedProjection(AdaptedKernel):
    """Mixin for layers that multiply their input by a kernel."""

    adapts: ClassVar[tuple[type, ...]] = (keras.layers.Dense, keras.layers.EinsumDense)

    @staticmethod
    def view(layer: keras.layers.Layer) -> KernelView:
        shape = (
            kernel_shape(layer)
            if holds_integers(layer)
            else tuple(base_kernel_variable(layer).shape)
        )
        if isinstance(layer, keras.layers.EinsumDense):
            return KernelView.from_equation(layer.equation, shape)
        return KernelView.from_dense(shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.is_inactive:
            with self.base_only():
                return super().call(inputs, training=training)  # type: ignore[misc]
        return self._outputs(inputs, training)

    def quantized_call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.is_inactive:
            with self.base_only():
                return super().quantized_call(inputs, training=training)  # type: ignore[misc]
        return self._outputs(inputs, training)

    def _outputs(self, inputs: Any, training: bool | None) -> Any:
        y = self.adapted(inputs, self._adapted, training)
        if self.bias is not None:  # type: ignore[attr-defined]
            y = ops.add(y, self.bias)  # type: ignore[attr-defined]
        if self.activation is not None:  # type: ignore[attr-defined]
            y = self.activation(y)  # type: ignore[attr-defined]
        return y

    def _adapted(self, inputs: Any, adapt: Adapt) -> Any:
        """Apply the adapter to one row per token: XLA is slow at thin products with more axes."""
        view = self.kernel_view
        x = view.flatten_input(inputs)
        leading = leading_shape(x, 1)
        mapped = self.mixture is not None and self.mixture.maps

        def product(x: Any, delta: Any = None) -> Any:
            if mapped:  # over samples: TensorFlow would crash with an einsum
                K = self.base_matrix()
                return ops.matmul(x, K if delta is None else ops.add(K, delta))
            y = self._product(ops.reshape(x, (*leading, view.m)), delta)
            return ops.reshape(y, (-1, view.n))

        tokens = 0 if holds_integers(self) else count_tokens(x.shape[:-1])  # type: ignore[arg-type]
        many = count_tokens(x.shape[:-1], unknown=MANY_TOKENS) if tokens else 0
        once = not mapped and sums_are_rounded_once(self.compute_dtype, many)  # type: ignore[attr-defined]
        operation = Operation(
            product,
            thin_product,
            (view.m, view.n),
            tokens,
            self.base_matrix,
            once,
        )
        y = adapt(ops.reshape(x, (-1, view.m)), operation)
        return view.unflatten_output(ops.reshape(y, (*leading, view.n)))

    def _product(self, x: Any, delta: Any = None) -> Any:
        """Compute `x (K + delta)` by the layer's own operation, for bitwise equal results."""
        view = self.kernel_view
        if holds_integers(self):  # type: ignore[arg-type]
            bare = copy_without(self, "bias", "activation")
            y = super(AdaptedProjection, bare).quantized_call(view.unflatten_input(x))  # type: ignore[misc]
            return view.flatten_output(y)
        kernel = self.base_kernel
        if delta is not None:
            kernel = ops.add(kernel, view.from_matrix(delta))
        x = view.unflatten_input(x)
        if isinstance(self, keras.layers.EinsumDense):
            return view.flatten_output(ops.einsum(self.equation, x, kernel))
        return ops.matmul(x, kernel)


def thin_product(x: Any, matrix: Any) -> Any:
    """Compute `x A`.

    PyTorch multiplies and differentiates an A of few columns twice as fast if each column is
    contiguous. The concatenation of one array copies the array into its own order.
    """
    if matrix.shape[1] <= FEW_COLUMNS:
        matrix = ops.transpose(ops.concatenate([ops.transpose(matrix)]))
    return ops.matmul(x, matrix)
