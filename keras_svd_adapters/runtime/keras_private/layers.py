"""Private Keras API that finds and changes the layers of a model (Keras 3.10 to 3.15).

- `_layers`, `_flatten_layers`: the layers below a layer, also during construction.
- `_trainable_variables`, `_non_trainable_variables`: weights of a layer without its children's.
- `_keras_history`, `_inbound_nodes`: the layer that makes an output.
- `_tracker`: a built layer is locked, and an adapter is a new child of a built layer.
- `REGISTERED_OBJS_TO_NAMES`, `GLOBAL_CUSTOM_NAMES`: the name of a class of `class_mixing` in a
  configuration. The public decorator would also redirect the name of the class itself.
- `_trainable`: setting `trainable` on a parent would also change all layers below the parent.
- `_track_variables` (torch): `model.parameters()` lists new variables only after this call.
- `_kernel`, `_is_quantized` (since 3.12): Keras cannot undo the quantization of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import keras
from keras.src.api_export import REGISTERED_OBJS_TO_NAMES
from keras.src.saving.object_registration import GLOBAL_CUSTOM_NAMES

trainable_by_birth = attrgetter("_trainable_variables")  # direct weights, made trainable


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return a layer and every layer below it, or an empty list early in its construction."""
    return list(layer._flatten_layers()) if hasattr(layer, "_layers") else []


def direct_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the weights of a layer in the order of its files, without those of its children."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def producer(output: Any) -> tuple[Any, list[Any] | None]:
    """Return the layer of a symbolic output, and the symbolic inputs of that call, if known."""
    layer, index = output._keras_history[:2]
    nodes = layer._inbound_nodes
    return layer, nodes[index].arguments.keras_tensors if nodes else None


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


def replace_kernel(layer: Any, kernel: Any, quantized: bool) -> Any:
    """Replace the kernel of an unlocked layer, before the bias if it trains; return the old one."""
    before = vars(layer).setdefault("_kernel", None)  # GPTQ and AWQ have none
    del layer._kernel
    layer._kernel, layer._is_quantized = kernel, quantized
    layer._trainable_variables.sort(key=lambda weight: weight is not kernel)
    return before
