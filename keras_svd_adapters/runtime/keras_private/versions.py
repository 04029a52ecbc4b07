"""Differences between the versions of Keras: one function for each.

- `quantization_config` and grouped int4: since Keras 3.13. Before that, int4 has one scale for
  each output, and int8 and int4 take no configuration.
"""

from __future__ import annotations

from typing import Any

import keras


def quantization_config_of(layer: keras.layers.Layer) -> Any:
    """Return the configuration with which a layer was quantized, `None` if it stores none."""
    return getattr(layer, "quantization_config", None)


def int4_config(block_size: int | None) -> Any:
    """Return the configuration of int4 in groups of this size, `None` for Keras before 3.13."""
    config = getattr(keras.quantizers, "Int4QuantizationConfig", None)
    return None if config is None else config(block_size=block_size)


def quantize_layer(layer: keras.layers.Layer, mode: str, config: Any) -> None:
    """Quantize a layer, with a configuration if there is one."""
    layer.quantize(mode) if config is None else layer.quantize(mode, config=config)
