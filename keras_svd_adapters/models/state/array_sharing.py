"""The arrays that adapters of a model share: frozen ones, and trained ones of one adapter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.frozen_variables import restore_variable
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.shared_arrays import (
    Shapes,
    SharedArrays,
    check_agreement,
    check_room,
    covering_shapes,
)
from keras_svd_adapters.adapters.tied_arrays import TiedArrays
from keras_svd_adapters.kernels.placement import mirrored_scope
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.keras_private.layers import all_layers, attach_child, detach_child
from keras_svd_adapters.runtime.live_models import models_containing

Shared = dict[str, SharedArrays]
Values = dict[str, dict[str, np.ndarray]]
Chosen = list[tuple[Site, Method]]


def shared_arrays_for(
    model: keras.layers.Layer, chosen: Chosen, values: Values | None = None
) -> Shared:
    """Return the shared arrays for new adapters, by method: those of the model, or new ones.

    Args:
        model: The model, adapted or not.
        chosen: The sites to adapt, each with its method.
        values: Values for new arrays, by method. Without them, the arrays start
            as the method defines.

    Returns:
        A dictionary of `SharedArrays` by the name of the method.

    Raises:
        ValueError: If adapters that would share arrays disagree.
    """
    found = check_sharing(model, chosen)
    for name, own in _by_method(chosen).items():
        if name not in found:
            method, shapes = own[0][1], shared_shapes(own)
            here = (values or {}).get(name) or method.start_shared(shapes)
            sizes = {array: value.shape for array, value in here.items()}
            with mirrored_scope(base_kernel_variable(own[0][0].layer)):
                found[name] = SharedArrays(method, sizes, here, shared_dtype(own))
            check_room(found[name], shapes)
    return found


def check_sharing(model: keras.layers.Layer, chosen: Chosen) -> Shared:
    """Return the existing shared arrays of this model and of the models around it.

    Adapters that disagree about shared arrays raise an error. So does an adapter that needs
    larger arrays than there are.
    """
    sharing = _by_method(chosen)
    if not sharing:
        return {}
    around = [model, *models_containing(all_layers(model))]
    there = single_shared_arrays(site for each in around for site in adapted_sites(each))
    for name, own in sharing.items():
        known = [there[name].method] if name in there else []
        check_agreement(known + [method for _, method in own])
        if name in there:
            check_room(there[name], shared_shapes(own))
    return there


def _by_method(chosen: Chosen) -> dict[str, Chosen]:
    """Group the sites by method, for methods that share arrays."""
    groups: dict[str, Chosen] = {}
    for site, method in chosen:
        if method.shared_by:
            groups.setdefault(method.name, []).append((site, method))
    return groups


def single_shared_arrays(sites: Iterable[Site], name: str | None = None) -> Shared:
    """Return the one set of arrays per method; raise an error if adapters read different sets."""
    several = find_shared_arrays(sites, name)
    for method, found in several.items():
        if len(found) > 1:
            raise ValueError(
                f"The {method} adapters of this model read {len(found)} different sets of shared "
                "arrays, because their layers were adapted one by one. An adapter of a model has "
                "one set: adapt the model with one `enable`, or save it whole with `model.save`. "
                f"Received: {', '.join(str(shared.method) for shared in found)}"
            )
    return {method: found[0] for method, found in several.items()}


def find_shared_arrays(
    sites: Iterable[Site], name: str | None = None
) -> dict[str, list[SharedArrays]]:
    """Return the shared arrays that the adapters of these sites read, by method."""
    found: dict[str, dict[int, SharedArrays]] = {}
    for site in sites:
        for key, adapter in adapters_of(site.layer).items():
            if (shared := adapter.shared) is not None and name in (None, key):
                found.setdefault(shared.method.name, {})[id(shared)] = shared
    return {method: list(arrays.values()) for method, arrays in found.items()}


def share_one_set(sites: Iterable[Site], shared: Shared) -> None:
    """Make all adapters of a method read the same arrays."""
    for site in sites:
        for adapter in adapters_of(site.layer).values():
            one = shared.get(adapter.method.name)
            if one is not None and adapter.shared is not one:
                detach_child(adapter, "shared")
                attach_child(adapter, "shared", one)


def tie_arrays(sites: Iterable[Site]) -> None:
    """Make the kernels of each adapter read the same tied arrays, if these have equal shapes.

    The arrays train if the adapter trains on one of these kernels.
    """
    sites, first = list(sites), dict[Any, TiedArrays]()
    for site in sites:
        for name, adapter in adapters_of(site.layer).items():
            if (own := adapter.tied) is not None:
                key = (name, site.tie_key(own.method), tuple(own.shapes.items()))
                one = first.setdefault(key, own)
                if one is not own:
                    detach_child(adapter, "tied")
                    attach_child(adapter, "tied", one)
    for site in sites:
        trained = [adapters_of(site.layer)[name].tied for name in site.layer.trained_adapters]
        for variable in (v for tied in trained if tied for v in tied.arrays.values()):
            restore_variable(variable)
            variable.trainable = True


def own_arrays(chosen: Chosen) -> list[dict[str, Array]]:
    """Return the arrays of each site without shared ones; tied ones only for their first site."""
    seen: set[Any] = set()
    found = []
    for site, method in chosen:
        own = {name: a for name, a in site.arrays(method).items() if not a.shared}
        key = _tied_key(site, method, own)
        found.append({k: a for k, a in own.items() if key not in seen or k not in method.tied})
        seen.add(key)
    return found


def tied_groups(chosen: Chosen) -> list[tuple[Shapes, int]]:
    """Return the groups of kernels that read the same tied arrays: their shapes, and how many."""
    groups: dict[Any, int] = {}
    for site, method in chosen:
        if method.tied and not method.tied_by_layer:
            key = _tied_key(site, method, site.arrays(method))
            groups[key] = groups.get(key, 0) + 1
    return [(dict(shapes), count) for (_, shapes), count in groups.items()]


def _tied_key(site: Site, method: Method, arrays: dict[str, Array]) -> tuple[Any, Any]:
    """Return what sites of one adapter have in common that read the same tied arrays."""
    return site.tie_key(method), tuple((name, arrays[name].shape) for name in method.tied)


def shared_shapes(chosen: Chosen, saved: bool = False) -> Shapes:
    """Return shapes that cover the shared arrays of each site; if `saved`, only those in files."""
    declared = [m.arrays(site.view.m, site.view.n, site.form(m)) for site, m in chosen]
    wanted = [{k: a for k, a in arrays.items() if a.saved or not saved} for arrays in declared]
    return covering_shapes(wanted)


def shared_dtype(chosen: Chosen) -> str:
    """Return the widest compute dtype of these sites."""
    dtypes = [site.layer.compute_dtype for site, _ in chosen]
    return "float32" if "float32" in dtypes else str(dtypes[0])


def reproducible_from_seed(shared: SharedArrays) -> bool:
    """Whether the method's start values for these arrays equal their current values."""
    return same_values(shared, shared.method.start_shared(shared.shapes))


def same_values(shared: SharedArrays, values: dict[str, np.ndarray]) -> bool:
    """Whether shared arrays have these values, compared in the dtype of the arrays."""
    return values.keys() == shared.shapes.keys() and all(
        tuple(values[name].shape) == shared.shapes[name]
        and bool(ops.all(ops.equal(variable, ops.cast(values[name], variable.dtype))))
        for name, variable in shared.arrays.items()
    )
