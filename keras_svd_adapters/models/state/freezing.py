"""What trains in an adapted model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import keras

from keras_svd_adapters.adapters.frozen_variables import pin, unpin
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.trained_weights import own_weights
from keras_svd_adapters.runtime.keras_private.layers import set_own_trainable
from keras_svd_adapters.runtime.keras_private.traversal import (
    all_layers,
    direct_weights,
    trainable_by_birth,
)
from keras_svd_adapters.runtime.live_models import models_around


def pin_all_but(model: keras.layers.Layer, free: Iterable[keras.Variable]) -> None:
    """Freezes every weight outside the adapters but these, for good.

    A batch normalization that is frozen keeps its moving statistics, too.
    """
    kept = {id(weight) for weight in free}
    for _, _, weight in own_weights(model):
        unpin(weight) if id(weight) in kept else pin(weight)
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            still = not any(id(weight) in kept for weight in layer.weights)
            hold_still(layer) if still else let_move(layer)


def thaw(model: keras.layers.Layer, weights: Iterable[keras.Variable]) -> None:
    """Lets these weights train, and the layers above them."""
    wanted = {id(weight) for weight in weights}
    for layer in all_layers(model):
        for weight in trainable_by_birth(layer):
            if id(weight) in wanted:
                weight.trainable = True
        if any(id(weight) in wanted for weight in layer.weights):
            let_train(layer)


def release(model: keras.layers.Layer) -> None:
    """Gives weights and layers back the `trainable` that they had before the first adapter.

    Also in the models around this one, but nowhere that an adapter remains.
    """
    around = models_around(all_layers(model))
    adapted = [other for other in around if adapted_sites(other)]
    kept = {id(layer) for other in adapted for layer in all_layers(other)}
    for layer in {id(x): x for other in [model, *around] for x in all_layers(other)}.values():
        if id(layer) not in kept:
            for weight in direct_weights(layer):
                unpin(weight)
            let_move(layer)


def let_train(layer: keras.layers.Layer) -> None:
    """Sets a layer's own `trainable`, and that of nothing below it, until `let_move`."""
    _remember_trainable(layer)
    set_own_trainable(layer, True)


def hold_still(layer: keras.layers.Layer) -> None:
    """Freezes a layer as a whole until `let_move`."""
    _remember_trainable(layer)
    set_own_trainable(layer, False)


def let_move(layer: keras.layers.Layer) -> None:
    """Takes back `let_train` and `hold_still`."""
    if "trainable_at_first" in vars(layer):
        set_own_trainable(layer, vars(layer).pop("trainable_at_first"))


def set_until_move(layer: keras.layers.Layer, value: bool) -> None:
    """`let_train` or `hold_still`."""
    let_train(layer) if value else hold_still(layer)


def changed_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that `let_move` would set back."""
    return [layer for layer in all_layers(model) if "trainable_at_first" in vars(layer)]


@contextmanager
def trainable_as_at_first(model: keras.layers.Layer) -> Iterator[None]:
    """Within, each layer's own `trainable` is what `let_move` would restore."""
    now = [(layer, layer.trainable) for layer in changed_layers(model)]
    for layer, _ in now:
        set_own_trainable(layer, vars(layer)["trainable_at_first"])
    try:
        yield
    finally:
        for layer, value in now:
            set_own_trainable(layer, value)


def _remember_trainable(layer: keras.layers.Layer) -> None:
    vars(layer).setdefault("trainable_at_first", layer.trainable)
