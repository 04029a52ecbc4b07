"""Attach adapters to a layer, activate them and detach them."""

from __future__ import annotations

from typing import NamedTuple

import keras

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import PREFIX, _remember, adapters_of
from keras_svd_adapters.adapters.class_mixing import add_mixin, remove_mixin
from keras_svd_adapters.adapters.frozen_variables import freeze_variable, restore_variable
from keras_svd_adapters.adapters.layer_kinds import adapted_class_of
from keras_svd_adapters.adapters.weighted.adapter_weights import WEIGHTS, AdapterWeights
from keras_svd_adapters.runtime.keras_private.layers import attach_child, detach_child


class Activation(NamedTuple):
    """The active adapters of a layer: one, none, or several with weights."""

    name: str | None = None
    weights: AdapterWeights | None = None


def activation_of(layer: keras.layers.Layer) -> Activation:
    """Return the active adapters of a layer, as `activate` takes them."""
    return Activation(getattr(layer, "active_adapter", None), getattr(layer, WEIGHTS, None))


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
    adapter.computes = lambda: (
        not layer.is_inactive and any(each is adapter for each in layer.computing()[0].values())
    )
    _remember(layer, "carried_adapters", (*layer.carried_adapters, name))


def reattach(layer: keras.layers.Layer, adapters: dict[str, Adapter], active: Activation) -> None:
    """Undo `detach` of some adapters of a layer; every variable stays trainable or frozen.

    The adapters, and with them the variables, then have the order of the dictionary.
    """
    there = adapters_of(layer)
    for name in there:
        detach_child(layer, PREFIX + name)
    if there:
        _remember(layer, "carried_adapters", ())
    for name, adapter in {**adapters, **there}.items():
        attach_inactive(layer, name, adapter)
    _set_active(layer, active)


def detach(layer: keras.layers.Layer, name: str) -> None:
    """Undo `attach`."""
    detach_child(layer, PREFIX + name)
    _remember(layer, "carried_adapters", tuple(n for n in layer.carried_adapters if n != name))
    if layer.active_adapter == name:
        _remember(layer, "active_adapter", None)
    if not layer.active_adapters:
        _set_active(layer, Activation())
    if not layer.carried_adapters:
        for attribute in ("carried_adapters", "active_adapter", "is_merged"):
            vars(layer).pop(attribute, None)
        layer.on_last_adapter_removed(layer)
        remove_mixin(layer, AdaptedLayer)


def activate(
    layer: keras.layers.Layer, name: str | None, weights: AdapterWeights | None = None
) -> None:
    """Activate one adapter of a layer, or those with weights; any other is inactive and frozen.

    Of the adapters with weights, those that do not train are frozen as well.
    """
    _set_active(layer, Activation(name, weights))
    for other, adapter in adapters_of(layer).items():
        for variable in adapter.trained.values():
            if other in layer.trained_adapters:
                restore_variable(variable)
                variable.trainable = True
            else:
                freeze_variable(variable)


def mark_merged(layer: keras.layers.Layer, is_merged: bool) -> None:
    """Note whether other adapters than those of a layer are merged into its kernel."""
    vars(layer).pop("is_merged", None)
    if is_merged and adapters_of(layer):
        _remember(layer, "is_merged", True)


def _set_active(layer: keras.layers.Layer, active: Activation) -> None:
    before = getattr(layer, WEIGHTS, None)
    if before is not active.weights:
        if before is not None:
            detach_child(layer, WEIGHTS)
        if active.weights is not None:
            attach_child(layer, WEIGHTS, active.weights)
    vars(layer).pop("is_weighted", None)
    if active.weights is not None:
        _remember(layer, "is_weighted", True)
    _remember(layer, "active_adapter", active.name)
    layer.place_kernel()
