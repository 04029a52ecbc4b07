"""Private Keras that changes a layer which is built. Checked on Keras 3.15.

- `_tracker`: a built layer is locked, and an adapter is a new child of a built layer.
- `REGISTERED_OBJS_TO_NAMES`, `GLOBAL_CUSTOM_NAMES`: the name that a configuration gives to a class
  of `class_mixing`; the public decorator would also redirect the name of the class itself.
- `_trainable`: setting `trainable` on a parent would change all that lies below it.
- `_track_variables` (torch): new variables join `model.parameters()` only when asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras.src.api_export import REGISTERED_OBJS_TO_NAMES
from keras.src.saving.object_registration import GLOBAL_CUSTOM_NAMES

from keras_svd_adapters.runtime.keras_private.traversal import all_layers


@contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[None]:
    """Within, a built layer may get new weights and children."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._tracker.lock()


def attach_child(layer: keras.layers.Layer, name: str, child: keras.layers.Layer) -> None:
    """Makes a layer the child of a built one, as an attribute."""
    with unlocked(layer):
        setattr(layer, name, child)


def detach_child(layer: keras.layers.Layer, name: str) -> None:
    """Takes back `attach_child`."""
    layer._tracker.untrack(getattr(layer, name))
    delattr(layer, name)


def serialize_as(cls: type, like: type, name: str | None = None) -> None:
    """Lets configurations name a class as they name the class `like`, or by a registered name."""
    if name is None and like in REGISTERED_OBJS_TO_NAMES:
        REGISTERED_OBJS_TO_NAMES[cls] = REGISTERED_OBJS_TO_NAMES[like]
    elif name := name or GLOBAL_CUSTOM_NAMES.get(like):
        GLOBAL_CUSTOM_NAMES[cls] = name


def set_own_trainable(layer: keras.layers.Layer, value: bool) -> None:
    """Sets the `trainable` of a layer, and that of nothing below it."""
    layer._trainable = value


def refresh_torch_parameters(model: keras.layers.Layer) -> None:
    """Lets `model.parameters()` see variables that came or went. Torch only."""
    for layer in all_layers(model) if keras.backend.backend() == "torch" else []:
        layer._track_variables()
