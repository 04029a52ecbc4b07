"""Attach adapters to a layer, activate them and detach them."""

from __future__ import annotations

from typing import Any

import keras

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import PREFIX, _remember, adapters_of
from keras_svd_adapters.adapters.class_mixing import add_mixin, remove_mixin
from keras_svd_adapters.adapters.frozen_variables import freeze_variable, restore_variable
from keras_svd_adapters.adapters.layer_kinds import adapted_class_of
from keras_svd_adapters.runtime.keras_private.layers import attach_child, detach_child


def attach(layer: keras.layers.Layer, name: str, adapter: Adapter) -> None:
    """Attach an adapter to a layer and activate the adapter."""
    attach_inactive(layer, name, adapter)
    activate(layer, name)


def attach_inactive(layer: keras.layers.Layer, name: str, adapter: Adapter) -> None:
    """Attach an adapter to a layer; the active adapter and the trained variables do not change."""
    if not isinstance(layer, AdaptedLayer):
        kind = adapted_class_of(layer)
        assert kind is not None
        add_mixin(layer, kind)
        kind.on_first_adapter(layer)
    attach_child(layer, PREFIX + name, adapter)
    adapter.kernel = lambda: layer.base_kernel_value()
    adapter.computes = lambda: not layer.is_inactive and layer.adapter() is adapter
    _remember(layer, "carried_adapters", (*layer.carried_adapters, name))


def reattach(layer: keras.layers.Layer, adapters: dict[str, Adapter], active: Any) -> None:
    """Undo `detach` of all adapters of a layer; every variable stays trainable or frozen."""
    for name, adapter in adapters.items():
        if name not in adapters_of(layer):
            attach_inactive(layer, name, adapter)
    _remember(layer, "active_adapter", active)


def detach(layer: keras.layers.Layer, name: str) -> None:
    """Undo `attach`."""
    detach_child(layer, PREFIX + name)
    _remember(layer, "carried_adapters", tuple(n for n in layer.carried_adapters if n != name))
    if layer.active_adapter == name:
        _remember(layer, "active_adapter", None)
    if not layer.carried_adapters:
        for attribute in ("carried_adapters", "active_adapter"):
            vars(layer).pop(attribute, None)
        layer.on_last_adapter_removed(layer)
        remove_mixin(layer, AdaptedLayer)


def activate(layer: keras.layers.Layer, name: str | None) -> None:
    """Activate one adapter of a layer; the other adapters are inactive and frozen."""
    for other, adapter in adapters_of(layer).items():
        for variable in adapter.trained.values():
            if other == name:
                restore_variable(variable)
                variable.trainable = True
            else:
                freeze_variable(variable)
    _remember(layer, "active_adapter", name)
