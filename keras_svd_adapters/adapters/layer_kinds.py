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
    for kind in AdaptedLayer.kinds:
        for cls in kind.adapts:
            if issubclass(plain, cls) and getattr(plain, "call", None) is getattr(cls, "call", ...):
                return kind
    return None


def base_kernel_value(layer: keras.layers.Layer) -> Any:
    """Return the kernel of any layer without adapters; for a quantized layer, as floats."""
    if isinstance(layer, AdaptedLayer):
        return layer.base_kernel_value()
    if not holds_integers(layer):
        return ops.convert_to_tensor(base_kernel_variable(layer))
    return dequantized(layer)


def base_kernel_variable(layer: keras.layers.Layer) -> keras.Variable:
    """Return the kernel variable of a layer, adapted or not."""
    if holds_integers(layer):
        return stored_kernel(layer)
    if isinstance(layer, AdaptedLayer):
        return layer.base_kernel
    kind = adapted_class_of(layer)
    assert kind is not None
    return getattr(layer, kind.kernel_name)
