"""Update a model's trained weights and compiled functions when its adapters change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.layers.quantized_logits import (
    add_logit_gradient,
    remove_logit_gradient,
)
from keras_svd_adapters.adapters.own_values import trained_with
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.adapted_model import mark_adapted, unmark_adapted
from keras_svd_adapters.models.state.array_sharing import tie_arrays
from keras_svd_adapters.models.state.changes import update_functions
from keras_svd_adapters.models.state.freezing import (
    freeze_all_except,
    restore_all_trainable,
    train_layer,
    unfreeze,
)
from keras_svd_adapters.models.state.penalties import average_penalties
from keras_svd_adapters.models.state.stored_kernels import unmark_stored
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.models.state.weight_owners import (
    add_owner,
    forget_single_owners,
    hold_active,
    move_last,
    place_mixins,
)
from keras_svd_adapters.runtime.keras_private.layers import all_layers
from keras_svd_adapters.runtime.live_models import models_containing, with_models_around
from keras_svd_adapters.runtime.warnings import warn


def train_and_sync(
    model: keras.layers.Layer,
    name: str,
    extra: Sequence[keras.Variable],
    values: Sequence[Any] | None = None,
) -> None:
    """Let an active adapter train extra weights, freeze all others and update the models around.

    Args:
        model: The model.
        name: Name of the adapter.
        extra: The weights.
        values: New values of these weights, if they change.
    """
    models = with_models_around(model)
    for weight in extra:
        add_owner(models, weight, name)
    sync_model(model)
    for weight, value in zip(extra, values or (), strict=values is not None):
        weight.assign(value)


def sync_model(model: keras.layers.Layer, only_switched: bool = False) -> None:
    """Make the trained weights, the saving and the compiled functions agree with the adapters."""
    sites = adapted_sites(model)
    tie_arrays(sites)
    trained = {name for site in sites for name in site.layer.trained_adapters}
    models = with_models_around(model)
    average_penalties(site for each in models for site in adapted_sites(each))
    if not only_switched:
        move_last(models)
    layers = (layer for each in models for layer in all_layers(each))
    adapted = [layer for layer in layers if isinstance(layer, AdaptedLayer)]
    restarted = hold_active(models, {n for layer in adapted for n in layer.active_adapters})
    train = [weight for _, _, weight in base_weights(model) if trained_with(weight) in trained]
    freeze_all_except(model, train)
    unfreeze(model, train)
    for layer in {layer for site in sites for layer in site.chain}:
        train_layer(layer)
    for around in models_containing([site.layer for site in sites]):
        mark_adapted(around)
        add_logit_gradient(around)
    add_logit_gradient(model)
    update_functions(model, only_switched, restarted)
    if forget_single_owners(models):
        update_functions(model)
    _tell_of_user_functions(sites)


def _tell_of_user_functions(sites: list[Site]) -> None:
    """Warn once of functions that users compiled with an adapter that is no longer active."""
    places: dict[str, str] = {}
    for site in sites:
        for place, name in vars(site.layer).pop("traced_by_user", {}).items():
            if name != " and ".join(site.layer.active_adapters):
                places[place] = name
    for place, name in places.items():
        warn(
            f"A function that you compiled around the model goes on with the adapter {name!r}: "
            "compile it again if you still use it. `model.predict` and `fit` follow the switch. "
            f"Received: a switch from {name!r}; the function was compiled at {place}"
        )


def restore_base_model(model: keras.layers.Layer) -> None:
    """Turn a model without adapters, and the models around it, back into ordinary models."""
    restore_all_trainable(model)
    place_mixins(with_models_around(model))
    for around in models_containing(all_layers(model)):
        if not adapted_sites(around):
            unmark_adapted(around)
            unmark_stored(around)
            remove_logit_gradient(around)
    update_functions(model)
