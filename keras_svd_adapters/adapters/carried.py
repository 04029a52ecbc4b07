"""The adapters that a layer carries."""

from __future__ import annotations

from typing import Any

import keras

from keras_svd_adapters.adapters.adapter import Adapter

PREFIX = "adapter_"


def adapters_of(layer: keras.layers.Layer) -> dict[str, Adapter]:
    """Return the adapters of a layer by name."""
    return {name: getattr(layer, PREFIX + name) for name in getattr(layer, "carried_adapters", ())}


def _remember(layer: Any, attribute: str, value: Any) -> None:
    """Set an attribute that Keras and the backend do not track."""
    object.__setattr__(layer, attribute, value)
