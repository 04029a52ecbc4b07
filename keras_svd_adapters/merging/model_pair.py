"""Pairs of kernels of two models, and the differences between the models."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import keras
import numpy as np

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value, base_kernel_variable
from keras_svd_adapters.adapters.refusals import refuse_without_delta
from keras_svd_adapters.kernels.quantized import holds_integers
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.runtime.host_values import to_float_array
from keras_svd_adapters.runtime.keras_private.layers import direct_weights

ModelPair = dict[str, Site]


def pair_models(base: keras.layers.Layer, tuned: keras.layers.Layer) -> ModelPair:
    """Return the kernels of a tuned model by key; raise if the base model has other kernels."""
    for site in adapted_sites(tuned):
        for name in site.layer.active_adapters:
            if (method := adapters_of(site.layer)[name].method).depends_on_input:
                refuse_without_delta(method)
    theirs = find_sites(tuned)
    for one, other in zip_longest(find_sites(base), theirs):
        if one is None or other is None or (one.key, one.shape) != (other.key, other.shape):
            raise ValueError(
                "The models must have the same kernels, of the same shapes: if one is a task and "
                "the other a backbone, pass the task's `backbone`. Received: the first "
                f"difference, {_told(one)} in the base and {_told(other)} in the tuned model"
            )
        why = None if one.exclusion_reason(tied=True) else other.exclusion_reason(tied=True)
        if why:
            raise ValueError(f"`{other.path}` of the tuned model: {why}. Received: {tuned!r}")
    return {site.key: site for site in theirs}


def _told(site: Site | None) -> str:
    return "none" if site is None else f"`{site.path}` {site.shape}"


def difference(site: Site, twins: ModelPair) -> list[np.ndarray]:
    """Return the tuned model's kernel minus the base model's, for each matrix of a kernel."""
    change = _change(site, twins)
    if not np.isfinite(change).all():
        raise ValueError(
            "A kernel has NaN or infinite values: no LoRA can be made of it. "
            f"Received: `{site.path}`"
        )
    return site.view.split(site.view.to_matrix(change))


def _change(site: Site, twins: ModelPair) -> np.ndarray:
    return _effective(twins[site.key]) - to_float_array(base_kernel_value(site.layer)).astype(
        "float64"
    )


def _effective(site: Site) -> np.ndarray:
    """Return the kernel with the update of its active adapter."""
    layer = site.layer
    adapted = isinstance(layer, AdaptedLayer) and not layer.is_inactive
    return to_float_array(layer.merged_kernel() if adapted else base_kernel_value(layer)).astype(
        "float64"
    )


def other_differences(
    base: keras.layers.Layer, tuned: keras.layers.Layer, twins: ModelPair, meant: set[str]
) -> Iterator[str]:
    """Yield the paths of the weights that differ, except for the selected kernels."""
    sites = find_sites(base)
    for site in sites:
        if site.key not in meant and _change(site, twins).any():
            yield site.path
    kernels = {id(base_kernel_variable(site.layer)) for site in sites}
    integers = [site.owner for site in sites if holds_integers(site.owner)]
    kernels |= {id(w) for owner in integers for w in direct_weights(owner) if w.name != "bias"}
    theirs = {key: weight for key, _, weight in base_weights(tuned)}
    for key, path, weight in base_weights(base):
        if id(weight) not in kernels and not _equal(weight, theirs.get(key)):
            yield path


def _equal(one: keras.Variable, other: keras.Variable | None) -> bool:
    return other is not None and np.array_equal(to_float_array(one), to_float_array(other))
