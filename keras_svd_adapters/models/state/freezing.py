"""Freezing of weights and layers in an adapted model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import keras

from keras_svd_adapters.adapters.frozen_variables import (
    freeze_variable,
    restore_variable,
    train_variable,
)
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.runtime.keras_private.layers import (
    all_layers,
    direct_weights,
    set_own_trainable,
    trainable_by_birth,
)
from keras_svd_adapters.runtime.live_models import models_containing


def freeze_all_except(model: keras.layers.Layer, free: Iterable[keras.Variable]) -> None:
    """Freeze every weight outside the adapters except these, whatever is set on their layers.

    A frozen batch normalization keeps its moving statistics, too.
    """
    kept = {id(weight) for weight in free}
    for _, _, weight in base_weights(model):
        restore_variable(weight) if id(weight) in kept else freeze_variable(weight)
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            still = not any(id(weight) in kept for weight in layer.weights)
            freeze_layer(layer) if still else restore_trainable(layer)


def unfreeze(model: keras.layers.Layer, weights: Iterable[keras.Variable]) -> None:
    """Make these weights, and the layers above them, trainable."""
    wanted = {id(weight) for weight in weights}
    for layer in all_layers(model):
        for weight in trainable_by_birth(layer):
            if id(weight) in wanted:
                train_variable(weight)
        if any(id(weight) in wanted for weight in layer.weights):
            train_layer(layer)


def restore_all_trainable(model: keras.layers.Layer) -> None:
    """Restore the `trainable` that weights and layers had before the first adapter.

    This includes the models around this one, except those in which an adapter remains.
    """
    around = models_containing(all_layers(model))
    adapted = [other for other in around if adapted_sites(other)]
    kept = {id(layer) for other in adapted for layer in all_layers(other)}
    for layer in {id(x): x for other in [model, *around] for x in all_layers(other)}.values():
        if id(layer) not in kept:
            for weight in direct_weights(layer):
                restore_variable(weight)
            restore_trainable(layer)


def train_layer(layer: keras.layers.Layer) -> None:
    """Make a layer's own `trainable` true, and nothing below it, until `restore_trainable`."""
    force_trainable(layer, True)


def freeze_layer(layer: keras.layers.Layer) -> None:
    """Freeze a layer as a whole until `restore_trainable`."""
    force_trainable(layer, False)


def restore_trainable(layer: keras.layers.Layer) -> None:
    """Undo `train_layer` and `freeze_layer`."""
    if "trainable_at_first" in vars(layer):
        set_own_trainable(layer, vars(layer).pop("trainable_at_first"))


def force_trainable(layer: keras.layers.Layer, value: bool) -> None:
    """Set a layer's own `trainable` until `restore_trainable`."""
    vars(layer).setdefault("trainable_at_first", layer.trainable)
    set_own_trainable(layer, value)


def changed_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers that `restore_trainable` would restore."""
    return [layer for layer in all_layers(model) if "trainable_at_first" in vars(layer)]


@contextmanager
def trainable_as_at_first(model: keras.layers.Layer) -> Iterator[None]:
    """Context manager: give each layer the `trainable` that `restore_trainable` would restore."""
    now = [(layer, layer.trainable) for layer in changed_layers(model)]
    for layer, _ in now:
        set_own_trainable(layer, vars(layer)["trainable_at_first"])
    try:
        yield
    finally:
        for layer, value in now:
            set_own_trainable(layer, value)
