"""Dense and EinsumDense that Keras quantized: their kernels as floats, and their products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.runtime.keras_private.traversal import direct_weights

MODES = ("int8", "int4")
STORED = ("kernel", "kernel_scale", "kernel_zero", "g_idx")
ADAPTED = (keras.layers.Dense, keras.layers.EinsumDense)


def mode_of(layer: keras.layers.Layer) -> str | None:
    """How the layer is quantized, such as `"int8"`; `None` for a float one."""
    return getattr(layer, "quantization_mode", None)


def holds_integers(layer: keras.layers.Layer) -> bool:
    """Whether the layer's kernel is stored as integers, beside which an adapter may lie."""
    return mode_of(layer) in MODES and isinstance(layer, ADAPTED)


def stored_kernel(layer: keras.layers.Layer) -> keras.Variable:
    """The variable that holds the integers of a kernel, packed for int4."""
    return stored_weights(layer)["kernel"]


def stored_weights(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """The variables that hold a quantized kernel, by name: integers, scales, zero points."""
    return {weight.name: weight for weight in direct_weights(layer) if weight.name in STORED}


def kernel_shape(layer: keras.layers.Layer) -> tuple[int, ...]:
    """The shape of the kernel as it was before it was quantized."""
    stored = tuple(stored_kernel(layer).shape)
    if mode_of(layer) != "int4":
        return stored
    if isinstance(layer, keras.layers.EinsumDense):
        return tuple(layer.original_kernel_shape)
    return (stored[0], layer.units)


def float_policy(layer: keras.layers.Layer) -> Any:
    """The dtype policy of the layer before it was quantized."""
    if mode_of(layer) is None:
        return layer.dtype_policy
    compute, stored = layer.compute_dtype, layer.variable_dtype
    return compute if compute == stored else f"mixed_{compute}"


def dequantized(layer: Any, integers: Any) -> Any:
    """The kernel of an int8 or int4 layer as floats, of the integers that its `kernel` gives.

    int8 and int4 divide by a scale for each output; grouped int4 multiplies, after a zero point.
    """
    shape = tuple(integers.shape)
    kernel, scale = ops.cast(integers, "float32"), ops.cast(layer.kernel_scale, "float32")
    if layer.quantization_mode == "int8":
        if isinstance(layer, keras.layers.EinsumDense):
            scale = _beside_kernel(scale, KernelView.from_equation(layer.equation, shape))
        return ops.divide(kernel, scale)
    kernel = ops.reshape(kernel, (-1, scale.shape[-1]))
    if getattr(layer, "kernel_zero", None) is None:
        return ops.reshape(ops.divide(kernel, scale), shape)
    group = ops.cast(layer.g_idx, "int32")
    zero = ops.take(ops.cast(layer.kernel_zero, "float32"), group, axis=0)
    return ops.reshape((kernel - zero) * ops.take(scale, group, axis=0), shape)


def _beside_kernel(scale: Any, view: KernelView) -> Any:
    """A scale whose axes Keras has in the order of the output, in the order of the kernel."""
    axes = sorted(zip(view.output_axes, view.columns, strict=True))
    columns = [column for _, column in axes]
    scale = ops.reshape(scale, [view.shape[column] for column in columns])
    scale = ops.transpose(scale, [columns.index(column) for column in sorted(columns)])
    return ops.reshape(scale, [n if i in columns else 1 for i, n in enumerate(view.shape)])


@contextmanager
def without(layer: Any, *attributes: str) -> Iterator[None]:
    """Within, these attributes are `None`, as a bias that a layer's own call is not to add."""
    before = {name: getattr(layer, name) for name in attributes}
    for name in attributes:
        object.__setattr__(layer, name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(layer, name, value)


def obstacle_of_quantization(layer: keras.layers.Layer) -> str | None:
    """Why a quantized layer cannot be adapted, `None` if it can."""
    mode = mode_of(layer)
    if mode is None or holds_integers(layer):
        return None
    if mode in MODES:
        return f"it is quantized ({mode}), and of such only Dense and EinsumDense are adapted"
    if mode == "float8":
        return "it is quantized (float8), whose scales train with the kernel; adapt the float model"
    return f"it is quantized ({mode}), which keeps no float kernel; adapt the float model, or int4"
