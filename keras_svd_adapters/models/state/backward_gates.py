"""Gates of the backward pass on the layers of a model, while `fit` runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from keras_svd_adapters.adapters.carried import _remember
from keras_svd_adapters.adapters.in_training.backward_gate import BackwardGate
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.kernels.placement import mirrored_scope
from keras_svd_adapters.models.state.changes import changes_model, update_functions
from keras_svd_adapters.models.state.compiled_functions import store_of
from keras_svd_adapters.runtime.keras_private.layers import attach_child, detach_child
from keras_svd_adapters.runtime.name_scopes import name_scopes


@changes_model
def add_backward_gates(model: keras.Model, layers: Sequence[Any]) -> None:
    """Give adapted layers open gates; at its end, or an error, the running `fit` removes them."""
    added = [layer for layer in layers if layer.active_gate is None]
    for layer in added:
        with name_scopes(layer.path), mirrored_scope(base_kernel_variable(layer)):
            gate = BackwardGate()
        attach_child(layer, "backward_gate", gate)
        _remember(layer, "active_gate", gate)
    update_functions(model)
    store_of(model).at_end.append(partial(_remove, model, added))


@changes_model
def _remove(model: keras.Model, layers: Sequence[Any]) -> None:
    for layer in layers:
        detach_child(layer, "backward_gate")
        del vars(layer)["active_gate"]
    update_functions(model)
