"""Conv1D, Conv2D and Conv3D with adapters."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from keras_svd_adapters.adapters.adapted_kernel import AdaptedKernel, AdaptedLayer
from keras_svd_adapters.adapters.class_mixing import original_class
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.operation import Operation, count_tokens
from keras_svd_adapters.adapters.per_sample import Adapt
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.runtime.keras_private.tracing import is_training

ORDINARY: Any = keras.layers.Conv2D.__base__  # base of Conv3D as well, with the `call` of both


class AdaptedConvolution(AdaptedKernel):
    """Mixin for layers that slide a kernel over their input.

    The kernel is an `(h w c, n)` matrix, and each row of `x` is a patch of the image. Patches
    are not extracted: `x A` is a convolution with A in the shape of a kernel.
    """

    adapts: ClassVar[tuple[type, ...]] = (ORDINARY, keras.layers.Conv1D)
    has_row_inputs: ClassVar[bool] = False
    is_default_target: ClassVar[bool] = False

    @staticmethod
    def view(layer: keras.layers.Layer) -> KernelView:
        return KernelView.from_convolution(tuple(base_kernel_variable(layer).shape))

    @staticmethod
    def exclusion_reason(layer: keras.layers.Layer) -> str | None:
        plain: Any = original_class(layer, AdaptedLayer)
        if plain.convolution_op is not ORDINARY.convolution_op:
            return "it has a `convolution_op` of its own, which an adapter would not know"
        if layer.groups > 1:
            return f"it has a kernel for each of its {layer.groups} groups of channels"
        return AdaptedKernel.exclusion_reason(layer)

    def call(self, inputs: Any) -> Any:
        if self.is_inactive:
            with self.base_only():
                return super().call(inputs)  # type: ignore[misc]
        y = self.adapted(inputs, self._adapted, is_training())
        if self.use_bias:  # type: ignore[attr-defined]
            y = ops.add(y, self.bias)  # type: ignore[attr-defined]
        if self._channels_first:
            y = ops.moveaxis(y, -1, 1)
        return y if self.activation is None else self.activation(y)  # type: ignore[attr-defined]

    def _adapted(self, inputs: Any, adapt: Adapt) -> Any:
        view = self.kernel_view
        known = tuple(size if type(size) is int else None for size in inputs.shape)
        positions = self.compute_output_shape(known)  # type: ignore[attr-defined]
        tokens = count_tokens(positions) // view.n
        operation = Operation(
            self._product, self._times, (view.m, view.n), tokens, self.base_matrix
        )
        return adapt(inputs, operation)

    @property
    def _channels_first(self) -> bool:
        return bool(self.data_format == "channels_first")  # type: ignore[attr-defined]

    def _product(self, x: Any, delta: Any = None) -> Any:
        kernel = self.base_kernel
        if delta is not None:
            kernel = ops.add(kernel, self.kernel_view.from_matrix(delta))
        return self._convolve(x, kernel)

    def _times(self, x: Any, matrix: Any) -> Any:
        return self._convolve(x, ops.reshape(matrix, (*self.kernel_view.shape[:-1], -1)))

    def _convolve(self, x: Any, kernel: Any) -> Any:
        """Convolve `x` with a kernel as the layer does; the result has its channels last."""
        padding = self.padding  # type: ignore[attr-defined]
        if padding == "causal":
            before = self.dilation_rate[0] * (kernel.shape[0] - 1)  # type: ignore[attr-defined]
            time = (before, 0)
            x = ops.pad(
                x, ((0, 0), (0, 0), time) if self._channels_first else ((0, 0), time, (0, 0))
            )
            padding = "valid"
        y = ops.conv(
            x,
            kernel,
            strides=list(self.strides),  # type: ignore[attr-defined]
            padding=padding,
            dilation_rate=self.dilation_rate,  # type: ignore[attr-defined]
            data_format=self.data_format,  # type: ignore[attr-defined]
        )
        return ops.moveaxis(y, 1, -1) if self._channels_first else y
