"""int8 and int4, as Keras itself stores and rounds them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.adapters.storages.storage import Rounded, Storage
from keras_svd_adapters.kernels.float_kernel import make_float
from keras_svd_adapters.kernels.quantized import float_policy, stored_weights
from keras_svd_adapters.runtime.host_values import to_host_exact


class KerasIntegers(Storage):
    """Kernels that Keras stores as integers."""

    def check(self, config: Any) -> None:
        try:
            keras.dtype_policies.get(f"{self.mode}_from_float32")
        except ValueError:
            raise ValueError(
                f"This version of Keras does not quantize to {self.mode}: `pip install "
                f"'keras>=3.11'`. Received: mode={self.mode!r}, with Keras {keras.__version__}"
            ) from None

    def round(self, layer: keras.layers.Layer, kernel: Any, config: Any = None) -> Rounded:
        twin = _float_copy(layer)
        twin.kernel.assign(kernel)
        self.store(twin, config)
        stored = {name: to_host_exact(weight) for name, weight in stored_weights(twin).items()}
        return Rounded(stored, ops.convert_to_numpy(ops.cast(base_kernel_value(twin), "float32")))

    def store(self, target: Any, config: Any = None) -> None:
        # Keras before 3.12 takes no configuration.
        target.quantize(self.mode) if config is None else target.quantize(self.mode, config=config)

    def config_of(self, layer: keras.layers.Layer) -> Any:
        """Return the quantization configuration of a layer.

        A layer that was built from a quantized policy stores no configuration. Keras quantizes by
        configurations since 3.13, and int4 in groups since 3.14.
        """
        config = getattr(layer, "quantization_config", None)
        if config is not None:
            return config
        groups = stored_weights(layer).get("g_idx")
        size = -1 if groups is None else int(np.sum(ops.convert_to_numpy(groups) == 0))
        return self.grouped(size)

    def grouped(self, size: int) -> Any:
        known: Any = getattr(keras.quantizers, "Int4QuantizationConfig", None)
        has_groups = known is not None and "block_size" in signature(known).parameters
        return known(block_size=size) if self.mode == "int4" and has_groups else None

    def make_float(self, layer: keras.layers.Layer, kernel: Any, policy: Any) -> Callable[[], None]:
        return make_float(layer, kernel, policy)


def _float_copy(layer: Any) -> Any:
    """Build a layer whose kernel has the same shape and axes, without any other weight."""
    dtype = float_policy(layer)
    if isinstance(layer, keras.layers.EinsumDense):
        twin = keras.layers.EinsumDense(layer.equation, layer.partial_output_shape, dtype=dtype)
    else:
        twin = keras.layers.Dense(layer.units, use_bias=False, dtype=dtype)
    twin.build_from_config(layer.get_build_config())
    return twin
