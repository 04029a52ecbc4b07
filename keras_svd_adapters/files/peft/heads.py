"""Convert other trained layers to whole modules of a PEFT directory, and back."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.own_values import variable_of
from keras_svd_adapters.files.peft.modules import Names
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.host_values import to_float_array
from keras_svd_adapters.runtime.warnings import warn


class SavedModules(NamedTuple):
    """Modules of a PEFT directory that are saved whole, in addition to the adapter."""

    modules: list[str]
    tensors: dict[str, np.ndarray]


def modules_to_save(
    model: keras.layers.Layer, name: str, names: Names, trained: dict[int, str]
) -> SavedModules:
    """Return the modules whose kernels trained with an adapter, whole, with their tensors.

    Args:
        model: The adapted model.
        name: Name of the adapter.
        names: The names of the model.
        trained: The other weights that train with the adapter: their paths by id.
            Those of the returned modules are taken out.
    """
    free = [site for site in find_sites(model) if _is_free(site, name)]
    whole = {names.modules[site.key]: site for site in free if site.key in names.modules}
    touched = {
        names.saved_as(module)
        for module, site in whole.items()
        if id(_weights(site)["weight"]) in trained
    }
    tensors = {}
    for module, site in whole.items():
        if names.saved_as(module) in touched:
            for part, weight in _weights(site).items():
                trained.pop(id(weight), None)
                tensors[f"{module}.{part}"] = _theirs(site, part, variable_of(weight, name))
    return SavedModules(sorted(touched), tensors)


def _is_free(site: Site, name: str) -> bool:
    return (
        site.is_default_target and not site.host.is_lookup and name not in adapters_of(site.layer)
    )


def _weights(site: Site) -> dict[str, keras.Variable]:
    bias = getattr(site.owner, "bias", None)
    kernel = {"weight": base_kernel_variable(site.layer)}
    return kernel if bias is None else kernel | {"bias": bias}


def _theirs(site: Site, part: str, weight: keras.Variable) -> np.ndarray:
    if part == "bias":
        return to_float_array(weight).reshape(-1)
    is_own = weight is base_kernel_variable(site.layer)
    return (site.matrix() if is_own else site.view.to_matrix(to_float_array(weight))).T


def values_for(
    module: str, site: Site, part: str, tensor: np.ndarray
) -> tuple[keras.Variable, np.ndarray]:
    """Return the weight for a tensor of a saved module, and the value of the weight in Keras."""
    received = f"Received: `{module}.{part}` of shape {tensor.shape}"
    if site.host.is_lookup and site.host.tied_reason(site.layer):
        raise ValueError(
            f"`{site.path}` also makes the logits, and PEFT trained a table for the look-up only: "
            f"merge it in PEFT and load the whole model. {received}"
        )
    weight = _weights(site).get(part)
    if weight is None:
        raise ValueError(f"`{site.path}` has no such weight: `use_bias=True`? {received}")
    shape = tuple(_theirs(site, part, weight).shape)
    if site.host.is_lookup:
        shape = site.view.matrix_shape
    if tensor.shape != shape:
        raise ValueError(
            f"`{site.path}` should have a tensor of shape {shape}: is it of this base model, with "
            f"as many classes (`num_classes=`)? {received}"
        )
    if part == "weight":
        matrix = tensor if site.host.is_lookup else tensor.T
        return weight, np.asarray(site.view.from_matrix(matrix))
    return weight, tensor.reshape(tuple(weight.shape))


def check_others(paths: list[str], strict: bool) -> None:
    """Raise or warn if other weights trained that a PEFT directory cannot hold."""
    if not paths:
        return
    shown = ", ".join(paths[:4]) + ", ..." * (len(paths) > 4)
    text = (
        "A PEFT directory holds adapters, biases, normalizations and whole Dense layers of known "
        "names, and other weights also trained: without them the adapter has other outputs. "
        f"`merge` covers all of them{{}}. Received: {shown}"
    )
    if strict:
        raise ValueError(text.format("; `strict=False` leaves them out"))
    warn(text.format(""))
