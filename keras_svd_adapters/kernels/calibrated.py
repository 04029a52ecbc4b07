"""Kernels that Keras quantized with data, by GPTQ or AWQ, as floats.

    K_ij = (q_ji - z_jg) s_jg / a_i       g the group of input i, a the scales of AWQ

q has 4 or 8 bits. Keras multiplies by K as floats, so its own product has a gradient.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_svd_adapters.runtime.keras_private.layers import direct_weights

CALIBRATED = ("gptq", "awq")
BESIDE = ("quantized_kernel", "kernel_scale", "kernel_zero", "awq_scales", "g_idx")  # attributes
ZERO_OF_EINSUM = "zero_point"  # the name of this weight


def is_calibrated(layer: keras.layers.Layer, mode: str | None) -> bool:
    """Return whether a layer with this mode stores integers alone; before, it has floats too."""
    if mode not in CALIBRATED or not hasattr(layer, "g_idx"):
        return False
    return sum(weight.name == "kernel" for weight in direct_weights(layer)) == 1


def dequantized(layer: Any, shape: tuple[int, ...]) -> Any:
    """Return the kernel of a calibrated layer in this shape, in float32."""
    scale = ops.cast(layer.kernel_scale, "float32")
    q, outputs = ops.convert_to_tensor(layer.quantized_kernel), scale.shape[0]
    if q.shape[0] != outputs:
        q = keras.quantizers.unpack_int4(q, outputs, axis=0, dtype="uint8")
    group = ops.cast(layer.g_idx, "int32")
    zero = ops.take(ops.cast(layer.kernel_zero, "float32"), group, axis=1)
    kernel = ops.transpose((ops.cast(q, "float32") - zero) * ops.take(scale, group, axis=1))
    if hasattr(layer, "awq_scales"):
        kernel = kernel / ops.reshape(ops.cast(layer.awq_scales, "float32"), (-1, 1))
    return ops.reshape(kernel, shape)
