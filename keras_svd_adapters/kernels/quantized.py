"""Dense and EinsumDense with quantized kernels: what they store, and their kernels as floats."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_svd_adapters.kernels import calibrated, nf4
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.runtime.keras_private.layers import direct_weights

IN_KERAS = ("int8", "int4")
MODES = (*IN_KERAS, "nf4")
INTEGERS = ("kernel", nf4.CODES_OF_KERNEL)
BESIDE_KERNEL = tuple(dict.fromkeys((*calibrated.BESIDE, nf4.LARGEST, nf4.MEAN)))
STORED = (*INTEGERS, *BESIDE_KERNEL, calibrated.ZERO_OF_EINSUM)
ADAPTED = (keras.layers.Dense, keras.layers.EinsumDense)


def mode_of(layer: keras.layers.Layer) -> str | None:
    """Return the quantization mode of a layer, such as `"int8"`; `None` for a float layer."""
    storage = kernel_storage_of(layer)
    return getattr(layer, "quantization_mode", None) if storage is None else storage.mode


def kernel_storage_of(layer: keras.layers.Layer) -> Any:
    """Return how a layer stores a kernel that Keras does not quantize itself, or `None`."""
    return vars(layer).get("kernel_storage")


def holds_integers(layer: keras.layers.Layer) -> bool:
    """Return whether a layer stores its kernel as integers and can carry an adapter."""
    mode = mode_of(layer)
    is_known = mode in MODES or calibrated.is_calibrated(layer, mode)
    return is_known and isinstance(layer, ADAPTED)


def stored_kernel(layer: keras.layers.Layer) -> keras.Variable:
    """Return the variable that holds the integers of a kernel, packed for int4 and NF4."""
    return next(each for name, each in stored_weights(layer).items() if name in INTEGERS)


def stored_weights(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Return the variables of a quantized kernel by name: integers, scales, zero points."""
    return {weight.name: weight for weight in direct_weights(layer) if weight.name in STORED}


def kernel_shape(layer: keras.layers.Layer) -> tuple[int, ...]:
    """Return the shape of the kernel before quantization."""
    if (storage := kernel_storage_of(layer)) is not None:
        return storage.view.shape
    stored = tuple(stored_kernel(layer).shape)
    if mode_of(layer) == "int8":
        return stored
    inputs = layer.get_build_config()["input_shape"]
    if not isinstance(layer, keras.layers.EinsumDense):
        return (inputs[-1], layer.units)
    return _shape_by_equation(layer.equation, inputs, layer.compute_output_shape(inputs))


def _shape_by_equation(equation: str, inputs: Any, outputs: Any) -> tuple[int, ...]:
    """Return the shape of a kernel."""
    x, kernel, y = equation.replace(" ", "").replace("->", ",").split(",")
    sizes: dict[str, int] = {}
    for labels, shape in ((x, inputs), (y, outputs)):
        sizes.update(zip(reversed(labels), reversed(shape)))
    return tuple(sizes[label] for label in kernel)


def float_policy(layer: keras.layers.Layer) -> Any:
    """Return the dtype policy of the layer before quantization."""
    if mode_of(layer) is None:
        return layer.dtype_policy
    compute, stored = layer.compute_dtype, layer.variable_dtype
    return compute if compute == stored else f"mixed_{compute}"


def dequantized(layer: Any) -> Any:
    """Return the kernel of a quantized layer as floats.

    int8 and int4 divide by a scale for each output. Grouped int4 subtracts a zero point and
    multiplies by a scale.
    """
    if kernel_storage_of(layer) is not None:
        return layer.dequantized("float32")
    if mode_of(layer) in calibrated.CALIBRATED:
        return calibrated.dequantized(layer, kernel_shape(layer))
    shape, integers = kernel_shape(layer), ops.convert_to_tensor(layer.kernel)
    if tuple(integers.shape) != shape:  # Keras 3.11 does not unpack int4
        axis = [a != b for a, b in zip(integers.shape, shape)].index(True)
        integers = keras.quantizers.unpack_int4(integers, shape[axis], axis=axis)
    kernel, scale = ops.cast(integers, "float32"), ops.cast(layer.kernel_scale, "float32")
    has_axes = mode_of(layer) == "int8" or len(scale.shape) > 2  # int4 too before Keras 3.14
    if isinstance(layer, keras.layers.EinsumDense) and has_axes:
        scale = _beside_kernel(scale, KernelView.from_equation(layer.equation, shape))
        return ops.divide(kernel, scale)
    if mode_of(layer) == "int8":
        return ops.divide(kernel, scale)
    kernel = ops.reshape(kernel, (-1, scale.shape[-1]))
    if getattr(layer, "kernel_zero", None) is None:
        return ops.reshape(ops.divide(kernel, scale), shape)
    group = ops.cast(layer.g_idx, "int32")
    zero = ops.take(ops.cast(layer.kernel_zero, "float32"), group, axis=0)
    return ops.reshape((kernel - zero) * ops.take(scale, group, axis=0), shape)


def _beside_kernel(scale: Any, view: KernelView) -> Any:
    """Return a scale in the axis order of the kernel; Keras stores it in output order."""
    axes = sorted(zip(view.output_axes, view.columns, strict=True))
    columns = [column for _, column in axes]
    scale = ops.reshape(scale, [view.shape[column] for column in columns])
    scale = ops.transpose(scale, [columns.index(column) for column in sorted(columns)])
    return ops.reshape(scale, [n if i in columns else 1 for i, n in enumerate(view.shape)])


def copy_without(layer: Any, *attributes: str) -> Any:
    """Return a shallow copy of a layer in which attributes, such as a bias, are `None`.

    Other threads may call the layer, so the layer itself does not change.
    """
    copy = object.__new__(type(layer))
    vars(copy).update(vars(layer), **dict.fromkeys(attributes))
    return copy


def obstacle_of_quantization(layer: keras.layers.Layer) -> str | None:
    """Return why a quantized layer cannot be adapted, or `None` if it can."""
    mode = mode_of(layer)
    if mode is None or holds_integers(layer):
        return None
    if mode in MODES:
        return f"it is quantized ({mode}); only quantized Dense and EinsumDense can be adapted"
    if mode == "float8":
        return "it is quantized (float8), whose scales train with the kernel; adapt the float model"
    return (
        f"it is quantized ({mode}), but not calibrated, or by another version of Keras; "
        "`model.quantize` with data calibrates it; or adapt the float model"
    )
