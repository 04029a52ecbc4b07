"""What trains in an adapted model, and the compiled functions that must learn of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import keras

from keras_svd_adapters.keras_internals import (
    all_layers,
    direct_weights,
    fresh_optimizer,
    hold_still,
    let_move,
    let_train,
    models_around,
    pin,
    refresh_torch_parameters,
    trainable_by_birth,
    unpin,
)
from keras_svd_adapters.site import adapted_sites
from keras_svd_adapters.weights import own_weights

GRAPHS = ("train_function", "test_function", "predict_function", "generate_function")


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


def forget_graphs(model: keras.layers.Layer, new_trainables: bool = True) -> None:
    """Makes every model that shares layers with this one trace and build again.

    Args:
        model: A model that gained, lost or switched an adapter.
        new_trainables: Whether other variables train than before, so that an
            optimizer that is built must start over.
    """
    for around in models_around(all_layers(model)):
        for graph in GRAPHS:
            if getattr(around, graph, None) is not None:
                setattr(around, graph, None)
        refresh_torch_parameters(around)
        optimizer = getattr(around, "optimizer", None)
        if new_trainables and optimizer is not None and optimizer.built:
            around.optimizer = fresh_optimizer(optimizer)
            warnings.warn(
                f"The optimizer of `{around.name}` was built for other variables; it was replaced "
                "by a fresh copy with the same settings, `model.optimizer`. Call "
                "`model.compile(...)` to choose another.",
                stacklevel=4,
            )


@contextmanager
def other_graphs(model: keras.layers.Layer) -> Iterator[None]:
    """Within, the models around this one trace anew; after, their graphs are back."""
    kept = [
        (around, graph, getattr(around, graph), getattr(around, "optimizer", None))
        for around in models_around(all_layers(model))
        for graph in GRAPHS
        if getattr(around, graph, None) is not None
    ]
    forget_graphs(model, new_trainables=False)
    try:
        yield
    finally:
        forget_graphs(model, new_trainables=False)
        for around, graph, function, optimizer in kept:
            if getattr(around, "optimizer", None) is optimizer:
                setattr(around, graph, function)
