"""Checks before adapters are merged."""

from __future__ import annotations

import keras
from keras import ops

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.refusals import refuse_without_delta
from keras_svd_adapters.kernels.calibrated import CALIBRATED
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


def _active_sites(sites: list[Site], keep_base: bool) -> list[Site]:
    """Return the sites with an active adapter; raise an error if there are none to merge.

    Other adapters stay on the kernels. Without a copy of these, they could never be used again.
    """
    active = [site for site in sites if site.layer.active_adapters]
    if not active:
        raise ValueError(
            "The adapter is not active: `set_adapter(model, name)` first. Received: adapters "
            f"{sorted(adapters_of(sites[0].layer))} on `{sites[0].path}`"
        )
    for site in active:
        others = sorted(adapters_of(site.layer).keys() - set(site.layer.active_adapters))
        if others and not keep_base:
            raise ValueError(
                "Merging changes the kernels of the other adapters, and without a copy of the "
                "kernels no `unmerge` would restore them: use `keep_base=True`, or remove the "
                f"others with `delete_adapter(model, name)` first. Received: adapters {others} on "
                f"`{site.path}`, keep_base=False"
            )
    return active


def _check(site: Site, holders: dict[int, list[keras.layers.Layer]], quantized: str | None) -> None:
    """Raise if the adapter of a site cannot be merged."""
    active = site.layer.active_adapters
    for name in active:
        if (method := adapters_of(site.layer)[name].method).depends_on_input:
            refuse_without_delta(method)
    if holds_integers(site.layer) and quantized is None:
        raise ValueError(
            "Say what becomes of quantized kernels: `quantized='float'` makes the adapted ones "
            "float kernels, `quantized='requantize'` rounds them to integers again and reports "
            "what that loses; or load the adapter's file onto the float model and merge there. "
            f"Received: a kernel in {site.dtype}, `{site.path}`, quantized=None"
        )
    if site.dtype in CALIBRATED and quantized == "requantize":
        raise ValueError(
            f"{site.dtype} rounds with data that `merge` does not have: use `quantized='float'`, "
            "or load the adapter's file onto the float model, merge, and quantize that. Received: "
            f"`{site.path}`, quantized='requantize'"
        )
    others = [x.path for x in holders[id(base_kernel_variable(site.layer))] if x is not site.owner]
    if others:
        raise ValueError(
            f"The kernel of `{site.path}` also belongs to {', '.join(map(repr, others))}, and "
            "merging would change that too. Leave the adapter unmerged. Received: adapter "
            f"{' and '.join(map(repr, active))}"
        )
    trained = [
        each for adapter in active for each in adapters_of(site.layer)[adapter].trained.items()
    ]
    for name, value in trained:
        if not bool(ops.all(ops.isfinite(value))):
            raise ValueError(
                "The adapter has NaN or infinite values and cannot be merged. "
                f"Received: `{name}` of `{site.path}`"
            )
