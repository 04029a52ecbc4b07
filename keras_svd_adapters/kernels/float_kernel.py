"""Float kernel for a quantized layer, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.kernels.quantized import BESIDE_KERNEL
from keras_svd_adapters.runtime.keras_private.layers import replace_kernel, unlocked


def make_float(layer: Any, kernel: Any, policy: Any) -> Callable[[], None]:
    """Replace the stored kernel of a quantized layer by a float kernel, as before `quantize`.

    Returns:
        A function that restores the quantized kernel.
    """
    names = [name for name in BESIDE_KERNEL if hasattr(layer, name)]
    configured = ["quantization_config"] * hasattr(layer, "quantization_config")  # since Keras 3.13
    before = {name: getattr(layer, name) for name in (*names, *configured)}
    quantized_policy, in_keras = _own_policy(layer), layer.quantization_mode is not None
    with unlocked(layer):
        floats = layer.add_weight(  # may run out of memory, before anything changes
            name="kernel",
            shape=tuple(kernel.shape),
            initializer=lambda shape, dtype=None: ops.cast(kernel, dtype),
            dtype=keras.dtype_policies.get(policy).variable_dtype,
            regularizer=layer.kernel_regularizer,
        )
        integers = replace_kernel(layer, floats, quantized=False)
        for name in names:
            delattr(layer, name)
        for name in configured:
            setattr(layer, name, None)
        layer.dtype_policy = policy

    def take_back() -> None:
        with unlocked(layer):
            replace_kernel(layer, integers, quantized=in_keras)
            for name, value in before.items():
                setattr(layer, name, value)
            layer.dtype_policy = quantized_policy

    return take_back


def _own_policy(layer: Any) -> Any:
    """Return a layer's own dtype policy, which a loaded model stores in a map of all its layers."""
    policy = layer.dtype_policy
    return policy[layer.path] if isinstance(policy, keras.dtype_policies.DTypePolicyMap) else policy
