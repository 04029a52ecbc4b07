"""Folding adapters into the kernels they adapt."""

from __future__ import annotations

import keras
from keras import ops

from keras_svd_adapters.host import adapters_of, base_kernel, detach
from keras_svd_adapters.site import Site
from keras_svd_adapters.switching import require_adapter, restore_plain
from keras_svd_adapters.weights import own_weights


def merge(model: keras.layers.Layer) -> None:
    """Folds the active adapter into the kernels, which then costs nothing.

    The delta is computed in float32, added to the kernel and rounded once. The
    model is an ordinary one afterwards: it saves, generates and exports without
    this package, and its weights train again as they did before `enable`.

    Args:
        model: An adapted model.

    Raises:
        ValueError: If there is no active adapter, if others rest beside it, or
            if its values are not finite. The model is left as it was.
    """
    sites = require_adapter(model)
    for site in sites:
        _check(site)
    for site in sites:
        kernel = base_kernel(site.layer)
        kernel.assign(ops.cast(site.layer.merged_kernel(), kernel.dtype))
        detach(site.layer, site.layer.active_adapter)
    for _, _, weight in own_weights(model):
        weight.trained_with = None
    restore_plain(model)


def _check(site: Site) -> None:
    """Raises where the adapter of a site cannot be merged."""
    names = sorted(adapters_of(site.layer))
    if len(names) > 1:
        raise ValueError(
            "Merging changes the kernels that the other adapters belong to. Take them off with "
            f"`delete_adapter(model, name)` first. Received: adapters {names} on `{site.path}`"
        )
    if site.layer.active_adapter is None:
        raise ValueError(
            "The adapter is not active: `set_adapter(model, name)` first. "
            f"Received: adapter {names[0]!r} on `{site.path}`"
        )
    for name, value in site.layer.adapter().trained.items():
        if not bool(ops.all(ops.isfinite(value))):
            raise ValueError(
                "The adapter has NaN or infinite values and cannot be merged. "
                f"Received: `{name}` of `{site.path}`"
            )
