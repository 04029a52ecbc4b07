"""A model of shapes without values, to plan for models that exceed the memory."""

from __future__ import annotations

import os
from typing import Any

import keras

from keras_svd_adapters.runtime.keras_private.tracing import shapes_only

ModelSource = str | os.PathLike[str] | dict[str, Any]


def build_without_values(source: ModelSource) -> keras.layers.Layer:
    """Build a model without values: 70 billion parameters take megabytes.

    Args:
        source: A preset of KerasHub, by its directory or name; only its
            configuration is read. Or a configuration of any Keras model, as
            `keras.saving.serialize_keras_object` makes it. Or the name of a
            KerasHub class and its arguments,
            `{"class_name": "GemmaBackbone", "config": {...}}`.

    Returns:
        A model whose variables have shapes and no values.

    Raises:
        ValueError: If `source` is none of these.
    """
    if isinstance(source, dict):
        if not {"class_name", "config"} <= source.keys():
            raise ValueError(
                "A configuration is a dictionary with `class_name` and `config`, as "
                "`keras.saving.serialize_keras_object(model)` makes it. "
                f"Received: keys {sorted(source)}"
            )
        with shapes_only():
            if "module" not in source:
                return _keras_hub_class(source["class_name"])(**source["config"])
            return keras.saving.deserialize_keras_object(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            "`model` is a built Keras model, a preset's directory or name, or a configuration. "
            f"Received: {source!r}"
        )
    keras_hub = require_keras_hub(source)
    with shapes_only():
        return keras_hub.models.Backbone.from_preset(os.fspath(source), load_weights=False)


def require_keras_hub(source: ModelSource) -> Any:
    """Return KerasHub, which `source` needs; raise an error if it is not installed."""
    try:
        import keras_hub
    except ImportError:
        raise ImportError(
            "Presets and classes of KerasHub need it: `pip install keras-hub`. "
            f"Received: {source!r}"
        ) from None
    return keras_hub


def _keras_hub_class(name: str) -> Any:
    found = getattr(require_keras_hub(name).models, name, None)
    if found is None:
        raise ValueError(
            "keras_hub.models has no such class; a configuration of another model also names its "
            f"`module`. Received: class_name={name!r}"
        )
    return found
