"""Adapters and frozen weights in the configuration of a model."""

from __future__ import annotations

from typing import Any

import keras

from keras_svd_adapters.adapters.attachment import activate, activation_of, attach, mark_merged
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.frozen_variables import is_frozen_variable
from keras_svd_adapters.adapters.layers.quantized_logits import add_logit_gradient
from keras_svd_adapters.adapters.own_values import own_values, owners_of, trained_with
from keras_svd_adapters.adapters.pooled.slot_arrays import slots_of
from keras_svd_adapters.adapters.refusals import refuse_to_save_pool
from keras_svd_adapters.adapters.shared_arrays import SharedArrays
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.search import adapted_sites, adapter_names, sites_by_key
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.array_sharing import (
    Shared,
    find_shared_arrays,
    share_one_set,
    tie_arrays,
)
from keras_svd_adapters.models.state.freezing import (
    changed_layers,
    force_trainable,
    freeze_all_except,
    unfreeze,
)
from keras_svd_adapters.models.state.penalties import average_penalties
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.models.state.weight_owners import (
    add_owner,
    move_last,
    store_values,
)
from keras_svd_adapters.runtime.layer_attributes import walk


def describe_adapters(model: keras.layers.Layer) -> list[dict[str, Any]]:
    """Return the adapters of a model without their values, as plain data."""
    sites = adapted_sites(model)
    return [
        {
            "name": name,
            "sites": {
                site.key: _describe(site, name) for site in sites if name in adapters_of(site.layer)
            },
            "train": [key for key, _, weight in base_weights(model) if name in owners_of(weight)],
        }
        for name in adapter_names(sites)
    ]


def describe_holders(model: keras.layers.Layer) -> dict[str, str | None]:
    """Return the adapter whose values a weight holds, of weights that several adapters train."""
    return {key: trained_with(w) for key, _, w in base_weights(model) if own_values(w)}


def describe_shared(model: keras.layers.Layer) -> dict[str, Any]:
    """Return the arrays that all adapters of a method share, without their values."""
    return {
        method: {"shapes": found[0].shapes, "dtype": found[0].compute_dtype}
        for method, found in find_shared_arrays(adapted_sites(model)).items()
        if len(found) == 1
    }


def _describe(site: Site, name: str) -> dict[str, Any]:
    adapter = adapters_of(site.layer)[name]
    if slots_of(adapter) is not None:
        refuse_to_save_pool(name)
    return {
        "method": adapter.method.name,
        "config": adapter.method.get_config(),
        "form": adapter.form,
        "active": name in site.layer.active_adapters,
    } | ({"merged": True} if site.layer.is_merged else {})


def describe_freezing(model: keras.layers.Layer) -> dict[str, Any]:
    """Return the weights that adapters did not freeze, and the layers whose `trainable` changed."""
    changed = {id(layer) for layer in changed_layers(model)}
    layers = {key: chain[-1] for key, chain in walk(model) if id(chain[-1]) in changed}
    return {
        "free": [key for key, _, weight in base_weights(model) if not is_frozen_variable(weight)],
        "trainable": {key: layer.trainable for key, layer in layers.items()},
    }


def restore_freezing(model: keras.layers.Layer, told: dict[str, Any]) -> None:
    """Freeze weights and layers as `describe_freezing` recorded."""
    free = set(told["free"])
    weights = [weight for key, _, weight in base_weights(model) if key in free]
    freeze_all_except(model, weights)
    unfreeze(model, [weight for weight in weights if owners_of(weight)])
    for key, chain in walk(model):
        if key in told["trainable"]:
            force_trainable(chain[-1], told["trainable"][key])


def restore_adapters(
    model: keras.layers.Layer,
    adapters: list[dict[str, Any]],
    shared: dict[str, Any],
    holders: dict[str, str | None],
) -> None:
    """Attach the empty adapters that `describe_adapters` recorded, if they are missing.

    Args:
        model: A plain model, or one whose parts already have their adapters.
        adapters: The result of `describe_adapters`.
        shared: The result of `describe_shared`.
        holders: The result of `describe_holders`.
    """
    by_key = sites_by_key(model)
    weights = {key: weight for key, _, weight in base_weights(model)}
    arrays = _restore_shared(adapters, shared)
    for adapter in adapters:
        name = adapter["name"]
        missing = [key for key in adapter["sites"] if key not in by_key]
        if missing:
            raise ValueError(
                "The configuration names adapted layers that the rebuilt model does not have. "
                "Does its `from_config` build every layer, and was `register_kernels` called as "
                f"before saving? Received: {', '.join(missing)}"
            )
        for key, told in adapter["sites"].items():
            _restore(by_key[key], name, told, arrays)
        for key in adapter["train"]:
            add_owner([model], weights[key], name, has_values=False)
    for key, holder in holders.items():
        for name in owners_of(weights[key]):
            if name not in own_values(weights[key]):
                store_values([model], weights[key], name, has_values=False)
        weights[key].trained_with = holder
    move_last([model])
    share_one_set(adapted_sites(model), arrays)
    tie_arrays(adapted_sites(model))
    average_penalties(adapted_sites(model))
    add_logit_gradient(model)


def _restore_shared(adapters: list[dict[str, Any]], shared: dict[str, Any]) -> Shared:
    """Create the arrays that `describe_shared` recorded, still without values."""
    sites = [site for adapter in adapters for site in adapter["sites"].values()]
    methods = {site["method"]: site["config"] for site in sites}
    return {
        name: SharedArrays(
            Method.registry[name].from_config(methods[name]),
            {array: tuple(shape) for array, shape in told["shapes"].items()},
            dtype=told["dtype"],
        )
        for name, told in shared.items()
    }


def _restore(site: Site, name: str, told: dict[str, Any], arrays: Shared) -> None:
    if name in adapters_of(site.layer):
        return
    method = Method.registry[told["method"]].from_config(told["config"])
    before = activation_of(site.layer)
    shared = arrays.get(method.name)
    adapter = site.new_adapter(method, told["form"], name, shared=shared)
    attach(site.layer, name, adapter)
    mark_merged(site.layer, told.get("merged", False))
    if not told["active"]:
        activate(site.layer, *before)
