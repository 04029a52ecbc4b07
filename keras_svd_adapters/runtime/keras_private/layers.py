"""Private Keras API that changes built layers. Checked on Keras 3.15.

- `_tracker`: a built layer is locked, and an adapter is a new child of a built layer.
- `REGISTERED_OBJS_TO_NAMES`, `GLOBAL_CUSTOM_NAMES`: the name of a class of `class_mixing` in a
  configuration. The public decorator would also redirect the name of the class itself.
- `_trainable`: setting `trainable` on a parent would also change all layers below the parent.
- `_track_variables` (torch): `model.parameters()` lists new variables only after this call.
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
    """Context manager: allow new weights and children on a built layer."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._tracker.lock()


def attach_child(layer: keras.layers.Layer, name: str, child: keras.layers.Layer) -> None:
    """Attach a layer to a built layer, as a child and an attribute."""
    with unlocked(layer):
        setattr(layer, name, child)


def detach_child(layer: keras.layers.Layer, name: str) -> None:
    """Undo `attach_child`."""
    layer._tracker.untrack(getattr(layer, name))
    delattr(layer, name)


def serialize_as(cls: type, like: type, name: str | None = None) -> None:
    """Give a class the name of the class `like` in configurations, or a registered name."""
    if name is None and like in REGISTERED_OBJS_TO_NAMES:
        REGISTERED_OBJS_TO_NAMES[cls] = REGISTERED_OBJS_TO_NAMES[like]
    elif name := name or GLOBAL_CUSTOM_NAMES.get(like):
        GLOBAL_CUSTOM_NAMES[cls] = name


def set_own_trainable(layer: keras.layers.Layer, value: bool) -> None:
    """Set `trainable` of a layer, but not of the layers below it."""
    layer._trainable = value


def refresh_torch_parameters(model: keras.layers.Layer) -> None:
    """Update `model.parameters()` after variables were added or removed. Torch only."""
    for layer in all_layers(model) if keras.backend.backend() == "torch" else []:
        layer._track_variables()
