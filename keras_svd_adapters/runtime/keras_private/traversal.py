"""Private Keras API that finds the layers and weights of a model. Checked on Keras 3.15.

- `_obj_type`, `get_attr_skipset`, `global_state`: Keras rebuilds the list of skipped attributes for
  every layer, because Keras stores the list under one name and reads another name.
- `_layers`, `_flatten_layers`: the models that contain a layer, also during construction.
- `_trainable_variables`, `_non_trainable_variables`: weights of a layer without its children's.
- `_keras_history`, `_inbound_nodes`: the layer that makes an output.
"""

from __future__ import annotations

from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.saving.saving_lib import get_attr_skipset


def skipped_attributes(layer: keras.layers.Layer) -> set[str]:
    """Return the attributes that Keras's traversal skips: listed once, stored for Keras to find."""
    kind = layer._obj_type()
    if (skipped := global_state.get_global_attribute(f"saving_attr_skiplist_{kind}")) is None:
        skipped = get_attr_skipset(kind)
        global_state.set_global_attribute(f"saving_attr_skiplist_{kind}", skipped)
    return skipped


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return a layer and every layer below it, or an empty list early in its construction."""
    return list(layer._flatten_layers()) if hasattr(layer, "_layers") else []


def direct_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the weights of a layer in the order of its files, without those of its children."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def trainable_by_birth(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the direct weights that were created as trainable, frozen or not."""
    return list(layer._trainable_variables)


def producer(output: Any) -> tuple[Any, list[Any] | None]:
    """Return the layer of a symbolic output, and the symbolic inputs of that call, if known."""
    layer, index = output._keras_history[:2]
    nodes = layer._inbound_nodes
    return layer, nodes[index].arguments.keras_tensors if nodes else None
