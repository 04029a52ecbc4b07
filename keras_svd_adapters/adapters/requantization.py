"""Quantize a float kernel as its layer stores it, with the rounding of Keras itself."""

from __future__ import annotations

from inspect import signature
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.kernels.quantized import float_policy, mode_of, stored_weights
from keras_svd_adapters.runtime.host_values import to_host_exact


class Rounded(NamedTuple):
    """A kernel as integers.

    Args:
        stored: The values of the weights that store the kernel, by weight name.
        floats: The dequantized kernel, in the shape of the kernel.
    """

    stored: dict[str, np.ndarray]
    floats: np.ndarray

    @property
    def bytes(self) -> int:
        """The size of all stored weights."""
        return sum(values.nbytes for values in self.stored.values())

    @property
    def group(self) -> int:
        """The number of inputs of a group, -1 for one group of all inputs."""
        return _group(self.stored.get("g_idx"))


def quantized_kernel(
    layer: keras.layers.Layer, kernel: Any, mode: str, config: Any = None
) -> Rounded:
    """Quantize a kernel as a layer of this kind stores it after `quantize(mode, config=config)`."""
    twin = _float_copy(layer)
    twin.kernel.assign(kernel)
    quantize_in_keras(twin, mode, config)
    stored = {name: to_host_exact(weight) for name, weight in stored_weights(twin).items()}
    return Rounded(stored, ops.convert_to_numpy(ops.cast(base_kernel_value(twin), "float32")))


def quantize_in_keras(target: Any, mode: str, config: Any) -> None:
    """Call `quantize` of a layer or model; Keras before 3.12 takes no configuration."""
    target.quantize(mode) if config is None else target.quantize(mode, config=config)


def requantized_kernel(layer: keras.layers.Layer, kernel: Any) -> Rounded:
    """Quantize a kernel as a layer that is quantized stores it."""
    return quantized_kernel(layer, kernel, str(mode_of(layer)), _config_of(layer))


def _config_of(layer: keras.layers.Layer) -> Any:
    """Return the quantization configuration of a layer.

    A layer that was built from a quantized policy stores no configuration. Keras quantizes by
    configurations since 3.13, and int4 in groups since 3.14.
    """
    config = getattr(layer, "quantization_config", None)
    if config is not None:
        return config
    return grouped_config(str(mode_of(layer)), _group(stored_weights(layer).get("g_idx")))


def _group(indices: Any) -> int:
    """Return the size of the groups with these indices, one for each input."""
    return -1 if indices is None else int(np.sum(ops.convert_to_numpy(indices) == 0))


def grouped_config(mode: str, block: int) -> Any:
    """Return the configuration of a mode for groups of a size, -1 for one group of all inputs.

    It is `None` if the mode, or this version of Keras, has no groups.
    """
    known: Any = getattr(keras.quantizers, "Int4QuantizationConfig", None)
    has_groups = known is not None and "block_size" in signature(known).parameters
    return known(block_size=block) if mode == "int4" and has_groups else None


def _float_copy(layer: Any) -> Any:
    """Build a layer whose kernel has the same shape and axes, without any other weight."""
    dtype = float_policy(layer)
    if isinstance(layer, keras.layers.EinsumDense):
        twin = keras.layers.EinsumDense(layer.equation, layer.partial_output_shape, dtype=dtype)
    else:
        twin = keras.layers.Dense(layer.units, use_bias=False, dtype=dtype)
    twin.build_from_config(layer.get_build_config())
    return twin
