"""Sets of adapters with weights, active on the same kernels of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import keras

from keras_svd_adapters.adapters.attachment import activate
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.weighted.adapter_weights import AdapterWeights
from keras_svd_adapters.kernels.placement import mirrored_scope
from keras_svd_adapters.models.sites.search import adapted_sites, sites_by_key
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.name_scopes import name_scopes

Key = tuple[frozenset[str], frozenset[str]]
_made: WeakKeyDictionary[keras.layers.Layer, dict[Key, AdapterWeights]] = WeakKeyDictionary()


def weights_for(
    model: keras.layers.Layer, sites: list[Site], weights: Mapping[str, float], trained: set[str]
) -> AdapterWeights:
    """Return the weights of some adapters, as a variable that is the same each time.

    Functions that TensorFlow compiled read the variable that they were compiled with.

    Args:
        model: The model whose adapters these are.
        sites: The kernels of these adapters.
        weights: The weights by name.
        trained: Names of the adapters that train.
    """
    known, key = _made.setdefault(model, {}), (frozenset(weights), frozenset(trained))
    if key not in known:
        known[key] = _new_weights(sites, weights, trained)
    return known[key]


def _new_weights(
    sites: list[Site], weights: Mapping[str, float], trained: Collection[str]
) -> AdapterWeights:
    kernel = base_kernel_variable(sites[0].layer)
    with name_scopes(sites[0].path), mirrored_scope(kernel):
        return AdapterWeights(weights, trained, weights.values())


def describe_weights(model: keras.layers.Layer) -> list[dict[str, Any]]:
    """Return the sets of adapters with weights as plain data: names, which train, and kernels."""
    groups: dict[int, tuple[AdapterWeights, list[str]]] = {}
    for site in adapted_sites(model):
        if (weights := site.layer.adapter_weights()) is not None:
            groups.setdefault(id(weights), (weights, []))[1].append(site.key)
    return [
        {"weights": weights.on_host(), "train": list(weights.trained), "sites": keys}
        for weights, keys in groups.values()
    ]


def restore_weights(model: keras.layers.Layer, told: list[dict[str, Any]]) -> None:
    """Activate the sets of adapters that `describe_weights` recorded."""
    by_key = sites_by_key(model) if told else {}
    for group in told:
        names = group["weights"].keys()
        sites = [by_key[key] for key in group["sites"]]
        sites = [site for site in sites if adapters_of(site.layer).keys() & names]
        weights = _new_weights(sites, group["weights"], group["train"]) if sites else None
        for site in sites:
            activate(site.layer, None, weights)
