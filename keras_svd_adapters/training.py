"""What trains in an adapted model."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from keras_svd_adapters.keras_internals import (
    all_layers,
    direct_weights,
    hold_still,
    let_move,
    let_train,
    pin,
    trainable_by_birth,
    unpin,
)
from keras_svd_adapters.live_models import models_around
from keras_svd_adapters.site import adapted_sites
from keras_svd_adapters.weights import own_weights


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
