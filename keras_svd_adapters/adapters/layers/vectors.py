"""Kinds of parts that methods adapt; biases of layers and vectors of normalizations."""

from __future__ import annotations

import re

import keras
from keras import backend

from keras_svd_adapters.runtime.keras_private.layers import trainable_by_birth

KERNELS, BIASES, NORMS = "kernels", "biases", "norms"
ATTENTION, TOKENS = "attention", "tokens"
VECTORS = (BIASES, NORMS)
NORMALIZATION = re.compile("Norm")


def vector_axes(layer: keras.layers.Layer, kind: str) -> dict[str, str]:
    """Return the attributes of a built layer that hold its vectors, with an `n` for each axis.

    Args:
        layer: A layer.
        kind: `"biases"`: every `bias`, and `beta` of a normalization. `"norms"`: all vectors of a
            normalization. A batch normalization has neither: its moving statistics would change
            while it trains.
    """
    if isinstance(layer, keras.Model | keras.layers.BatchNormalization):
        return {}
    is_norm = any(NORMALIZATION.search(cls.__name__) for cls in type(layer).__mro__)
    names = {"bias", "beta"} if is_norm else {"bias"}
    weights = set(map(id, trainable_by_birth(layer)))  # without statistics of the data
    return {
        name: "n" * len(value.shape)
        for name, value in vars(layer).items()
        if id(value) in weights
        and backend.is_float_dtype(value.dtype)
        and (name in names if kind == BIASES else is_norm)
    }
