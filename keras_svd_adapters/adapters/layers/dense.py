"""Dense and EinsumDense with adapters."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import backend, ops

from keras_svd_adapters.adapters.adapted_kernel import AdaptedKernel
from keras_svd_adapters.adapters.frozen_variables import without_gradient
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.operation import Operation, count_tokens
from keras_svd_adapters.adapters.per_sample import Adapt
from keras_svd_adapters.kernels.axes import as_rows, leading_shape
from keras_svd_adapters.kernels.fused_products import MANY_TOKENS, sums_are_rounded_once
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.quantized import copy_without, holds_integers, kernel_shape
from keras_svd_adapters.methods.algebra import matmul, reshape

FEW_COLUMNS = 64
LARGE = 2**17  # values of an input


class AdaptedProjection(AdaptedKernel):
    """Mixin for layers that multiply their input by a kernel."""

    adapts: ClassVar[tuple[type, ...]] = (keras.layers.Dense, keras.layers.EinsumDense)
    kernel_may_leave: ClassVar[bool] = True

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

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)  # type: ignore[misc]
        self.place_kernel()

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
        if self.active_gate is not None and training is not False:  # it may be traced
            y = self.active_gate.outputs(y)
        return y

    def _adapted(self, inputs: Any, adapt: Adapt) -> Any:
        """Apply the adapter to one row per token: XLA is slow at thin products with more axes."""
        view = self.kernel_view
        x = view.flatten_input(inputs)
        leading = leading_shape(x, 1)
        rows = as_rows(x)
        mapped = self.mixture is not None and self.mixture.maps

        def product(given: Any, delta: Any = None) -> Any:
            if mapped:  # over samples: TensorFlow would crash with an einsum
                K = self.base_matrix()
                return ops.matmul(given, K if delta is None else ops.add(K, delta))
            if given is rows:  # two reshapes less, each as long as a small product with PyTorch
                return view.output_rows(self._product(inputs, delta))
            x = reshape(given, (*leading, view.m))
            return view.output_rows(self._product(view.unflatten_input(x), delta))

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
            leading,
        )
        return view.output_from_rows(adapt(rows, operation), leading)

    def _product(self, x: Any, delta: Any = None) -> Any:
        """Compute the layer's own operation with `K + delta`, for bitwise equal results."""
        if holds_integers(self):  # type: ignore[arg-type]
            bare = copy_without(self, "bias", "activation")
            return super(AdaptedProjection, bare).quantized_call(x)  # type: ignore[misc]
        kernel = without_gradient(self.own_kernel)
        if delta is not None:
            kernel = ops.add(kernel, self.kernel_view.from_matrix(delta))
        if isinstance(self, keras.layers.EinsumDense):
            return ops.einsum(self.equation, x, kernel)
        return ops.matmul(x, kernel)


def thin_product(x: Any, matrix: Any) -> Any:
    """Compute `x A`.

    PyTorch multiplies and differentiates an A of few columns twice as fast if each column is
    contiguous, once the product takes longer than the copy. The concatenation of one array copies
    the array into its own order.
    """
    if (
        backend.backend() == "torch"
        and matrix.shape[1] <= FEW_COLUMNS
        and count_tokens(x.shape) >= LARGE
    ):
        matrix = ops.transpose(ops.concatenate([ops.transpose(matrix)]))
    return matmul(x, matrix)
