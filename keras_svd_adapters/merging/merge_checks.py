"""Checks before adapters are merged."""

from __future__ import annotations

import keras
from keras import ops

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.kernels.quantized import holds_integers
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.keras_private.layers import all_layers, direct_weights
from keras_svd_adapters.runtime.live_models import models_containing


def _holders(model: keras.layers.Layer) -> dict[int, list[keras.layers.Layer]]:
    """Return the layers that own each weight, in this model and the models around it."""
    holders: dict[int, dict[int, keras.layers.Layer]] = {}
    for around in [model, *models_containing(all_layers(model))]:
        for layer in all_layers(around):
            for weight in direct_weights(layer):
                holders.setdefault(id(weight), {})[id(layer)] = layer
    return {key: list(layers.values()) for key, layers in holders.items()}


def _check(site: Site, holders: dict[int, list[keras.layers.Layer]], quantized: str | None) -> None:
    """Raise if the adapter of a site cannot be merged."""
    names = sorted(adapters_of(site.layer))
    if len(names) > 1:
        raise ValueError(
            "Merging changes the kernels of the other adapters. Remove those with "
            f"`delete_adapter(model, name)` first. Received: adapters {names} on `{site.path}`"
        )
    if site.layer.active_adapter is None:
        raise ValueError(
            "The adapter is not active: `set_adapter(model, name)` first. "
            f"Received: adapter {names[0]!r} on `{site.path}`"
        )
    if holds_integers(site.layer) and quantized is None:
        raise ValueError(
            "Say what becomes of quantized kernels: `quantized='float'` makes the adapted ones "
            "float kernels, `quantized='requantize'` rounds them to integers again and reports "
            "what that loses; or load the adapter's file onto the float model and merge there. "
            f"Received: a kernel in {site.dtype}, `{site.path}`, quantized=None"
        )
    others = [x.path for x in holders[id(base_kernel_variable(site.layer))] if x is not site.owner]
    if others:
        raise ValueError(
            f"The kernel of `{site.path}` also belongs to {', '.join(map(repr, others))}, and "
            "merging would change that too. Leave the adapter unmerged. Received: adapter "
            f"{names[0]!r}"
        )
    for name, value in site.layer.adapter().trained.items():
        if not bool(ops.all(ops.isfinite(value))):
            raise ValueError(
                "The adapter has NaN or infinite values and cannot be merged. "
                f"Received: `{name}` of `{site.path}`"
            )
