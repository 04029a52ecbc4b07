"""Bring a model's trained weights and compiled functions in line with its adapters."""

from __future__ import annotations

import keras

from keras_svd_adapters.adapters.layers.quantized_logits import leave_logits, mend_logits
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.adapted_model import make_root, unmake_root
from keras_svd_adapters.models.state.compiled_functions import forget_graphs
from keras_svd_adapters.models.state.freezing import let_train, pin_all_but, release, thaw
from keras_svd_adapters.models.state.trained_weights import own_weights, trained_with
from keras_svd_adapters.runtime.keras_private.traversal import all_layers
from keras_svd_adapters.runtime.live_models import models_around, searching_once


def finish(model: keras.layers.Layer, name: str, extra: list[keras.Variable]) -> None:
    """Freezes what does not train, and tells the model and those around it."""
    for weight in extra:
        weight.trained_with = name
    settle(model)


@searching_once()
def settle(model: keras.layers.Layer) -> None:
    """Makes what trains, what saves and what is compiled agree with the adapters there are."""
    sites = adapted_sites(model)
    active = {site.layer.active_adapter for site in sites} - {None}
    train = [weight for _, _, weight in own_weights(model) if trained_with(weight) in active]
    pin_all_but(model, train)
    thaw(model, train)
    for layer in {layer for site in sites for layer in site.chain}:
        let_train(layer)
    for around in models_around([site.layer for site in sites]):
        make_root(around)
        mend_logits(around)
    mend_logits(model)
    forget_graphs(model)


@searching_once()
def restore_plain(model: keras.layers.Layer) -> None:
    """Makes a model without adapters, and those around it, ordinary ones again."""
    release(model)
    for around in models_around(all_layers(model)):
        if not adapted_sites(around):
            unmake_root(around)
            leave_logits(around)
    forget_graphs(model)
