"""What a model holds at one time, to compare with what it holds later."""

from contextlib import contextmanager

import pytest

from keras_svd_adapters.runtime.host_values import to_host_exact


def bits(model):
    """The bytes of each weight, by its path."""
    return {w.path: to_host_exact(w).tobytes() for w in model.weights}


def values(weights):
    """The values of weights, by their paths."""
    return {weight.path: weight.numpy().copy() for weight in weights}


def snapshot(model):
    """Weights, layers with their classes and attributes, and which weights train."""
    weights = {w.path: (w.trainable, type(w), w.numpy().tobytes()) for w in model.weights}
    layers = [
        (type(layer), layer.trainable, sorted(vars(layer))) for layer in model._flatten_layers()
    ]
    return weights, layers, list(model.trainable_weights)


def state(model):
    """The bytes of each weight, whether it trains, and the class of the model."""
    return {w.path: (w.trainable, w.numpy().tobytes()) for w in model.weights}, type(model)


@contextmanager
def refused(model, match):
    """What follows raises an error, and leaves the model as it was."""
    before = snapshot(model)
    with pytest.raises(ValueError, match=f"(?s){match}.*Received: "):
        yield
    assert snapshot(model) == before
