"""Which adapters of a model share their frozen arrays, and that they agree."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.host import adapters_of
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.shared import (
    Shapes,
    SharedArrays,
    check_agreement,
    check_room,
    covering_shapes,
)
from keras_svd_adapters.site import Site, adapted_sites

Shared = dict[str, SharedArrays]
Values = dict[str, dict[str, np.ndarray]]


def share(
    model: keras.layers.Layer, chosen: list[tuple[Site, Method]], values: Values | None = None
) -> Shared:
    """The shared arrays for new adapters, by method: those of the model, or new ones.

    Args:
        model: The model, adapted or not.
        chosen: The sites to adapt, each with its method.
        values: Values for new ones, by method; without, they start as the
            method says.

    Returns:
        A dictionary of `SharedArrays` by the name of the method.

    Raises:
        ValueError: If adapters that would share disagree.
    """
    check_sharing(model, chosen)
    found = shared_in(adapted_sites(model))
    for name, method in {method.name: method for _, method in chosen if method.shared_by}.items():
        if name not in found:
            shapes = shared_shapes((site, m) for site, m in chosen if m.name == name)
            found[name] = _new(method, shapes, (values or {}).get(name), chosen[0][0])
    return found


def check_sharing(model: keras.layers.Layer, chosen: list[tuple[Site, Method]]) -> None:
    """Raises where adapters that would share arrays disagree, or one wants more than there is."""
    there = shared_in(adapted_sites(model))
    check_agreement([x.method for x in there.values()] + [method for _, method in chosen])
    for name, shared in there.items():
        check_room(shared, shared_shapes((site, m) for site, m in chosen if m.name == name))


def _new(
    method: Method, shapes: Shapes, values: dict[str, np.ndarray] | None, site: Site
) -> SharedArrays:
    values = values or method.start_shared(shapes)
    shared = SharedArrays(
        method, {k: v.shape for k, v in values.items()}, values, site.layer.dtype_policy
    )
    check_room(shared, shapes)
    return shared


def seed_is_enough(shared: SharedArrays) -> bool:
    """Whether the method starts these arrays at just the values that they have."""
    return same_values(shared, shared.method.start_shared(shared.shapes))


def same_values(shared: SharedArrays, values: dict[str, np.ndarray]) -> bool:
    """Whether shared arrays have these values, in their own dtype."""
    return values.keys() == shared.shapes.keys() and all(
        tuple(values[name].shape) == shared.shapes[name]
        and bool(ops.all(ops.equal(variable, ops.cast(values[name], variable.dtype))))
        for name, variable in shared.arrays.items()
    )


def shared_in(sites: Iterable[Site], name: str | None = None) -> Shared:
    """The shared arrays that the adapters of these sites read, by method."""
    return {
        adapter.shared.method.name: adapter.shared
        for site in sites
        for key, adapter in adapters_of(site.layer).items()
        if adapter.shared is not None and name in (None, key)
    }


def shared_shapes(chosen: Iterable[tuple[Site, Method]]) -> Shapes:
    """Shapes that hold what each of these sites reads of the shared arrays."""
    return covering_shapes(
        [method.arrays(site.view.m, site.view.n, "additive") for site, method in chosen]
    )
