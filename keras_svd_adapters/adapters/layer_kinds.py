"""The kind of adapted layer that a layer becomes, and the layer's kernel without adapters."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.class_mixing import class_without_mixins
from keras_svd_adapters.kernels.quantized import dequantized, holds_integers, stored_kernel


def adapted_class_of(layer: keras.layers.Layer) -> type[AdaptedLayer] | None:
    """Return the kind of a built layer, if the layer uses its kernel as that kind does."""
    return adapted_class_for(class_without_mixins(layer)) if layer.built else None


def adapted_class_for(plain: type) -> type[AdaptedLayer] | None:
    """Return the kind of the layers of a class."""
    return next((kind for kind in AdaptedLayer.kinds if kind.suits(plain)), None)


def kernel_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return the layer that holds the kernel of a layer: itself, or one below it."""
    kind = adapted_class_of(layer)
    return layer if kind is None else kind.kernel_layer(layer)


def base_kernel_value(layer: keras.layers.Layer) -> Any:
    """Return the kernel of any layer without adapters; for a quantized layer, as floats."""
    layer = kernel_layer(layer)
    if isinstance(layer, AdaptedLayer):
        return layer.base_kernel_value()
    if not holds_integers(layer):
        return ops.convert_to_tensor(base_kernel_variable(layer))
    return dequantized(layer)


def base_kernel_variable(layer: keras.layers.Layer) -> keras.Variable:
    """Return the kernel variable of a layer, adapted or not."""
    layer = kernel_layer(layer)
    if holds_integers(layer):
        return stored_kernel(layer)
    if isinstance(layer, AdaptedLayer):
        return layer.base_kernel
    kind = adapted_class_of(layer)
    assert kind is not None
    return getattr(layer, kind.kernel_name)
