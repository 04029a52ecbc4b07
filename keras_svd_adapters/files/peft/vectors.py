"""Convert biases and vectors of normalizations to PEFT and back.

An adapter here stores the difference from a vector, PEFT the whole vector: those of a normalization
by its LN tuning or as a module that is saved whole, biases with a LoRA by `bias="all"`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import keras
import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.layers.vectors import BIASES, NORMS
from keras_svd_adapters.adapters.own_values import variable_of
from keras_svd_adapters.files.peft.modules import Names, layer_key
from keras_svd_adapters.merging.kernel_updates import kernel_updates
from keras_svd_adapters.methods.vectors.bitfit import BitFit
from keras_svd_adapters.methods.vectors.ln_tuning import LNTuning
from keras_svd_adapters.models.assignment import Chosen
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.host_values import to_float_array

LN_TUNING, LN_TUNING_LAYERS, BASE_LAYER = "LN_TUNING", "ln_tuning_layers", "base_layer"
PARTS = {"gamma": "weight", "scale": "weight", "beta": "bias", "bias": "bias"}
Tensors = dict[str, dict[str, np.ndarray]]


class Vectors(NamedTuple):
    """Changed vectors, whole, by module and part.

    Args:
        biases: Biases by themselves.
        norms: All vectors of normalizations.
    """

    biases: Tensors
    norms: Tensors


def vectors_in(
    model: keras.layers.Layer, modules: Mapping[str, str], kind: str
) -> dict[str, dict[str, Site]]:
    """Return the vectors of a kind by module and part, given the modules of layers by key."""
    found: dict[str, dict[str, Site]] = {}
    for site in find_sites(model, kind):
        if is_named(site, modules):
            parts = found.setdefault(modules[layer_key(site)], {})
            parts[PARTS[site.layer.attribute]] = site
    return found


def is_named(site: Site, modules: Mapping[str, str]) -> bool:
    """Return whether a vector has a name in transformers."""
    return layer_key(site) in modules and site.layer.attribute in PARTS


def changed_vectors(
    model: keras.layers.Layer, name: str, names: Names, trained: dict[int, str]
) -> Vectors:
    """Return the vectors that an adapter changes, or that train with it.

    Args:
        model: The adapted model.
        name: Name of the adapter.
        names: The names of the model.
        trained: The other weights that train with the adapter: their paths by id.
            Those of the returned vectors are taken out.
    """

    def is_changed(site: Site, kind: str) -> bool:
        adapter = adapters_of(site.layer).get(name)
        if adapter is None:
            return id(base_kernel_variable(site.layer)) in trained
        return adapter.method.adapts == kind

    def values(sites: dict[str, dict[str, Site]], kind: str) -> Tensors:
        changed = [
            (module, parts)
            for module, parts in sites.items()
            if any(is_changed(site, kind) for site in parts.values())
        ]
        found = {
            module: {part: _value(site, name) for part, site in parts.items()}
            for module, parts in changed
        }
        for _, parts in changed:
            for site in parts.values():
                trained.pop(id(base_kernel_variable(site.layer)), None)
        return found

    modules = names.modules | names.vectors
    norms = values(vectors_in(model, modules, NORMS), NORMS)
    biases = values(vectors_in(model, modules, BIASES), BIASES)
    return Vectors({k: v for k, v in biases.items() if k not in norms}, norms)


def _value(site: Site, name: str) -> np.ndarray:
    if name not in adapters_of(site.layer):
        return to_float_array(variable_of(base_kernel_variable(site.layer), name)).reshape(-1)
    (change,) = kernel_updates(site, name)
    return (site.matrix() + change).reshape(-1)


def vector_tensors(vectors: Vectors, kernels: Collection[str]) -> dict[str, np.ndarray]:
    """Return the tensors of vectors as PEFT names them, given the modules of adapted kernels."""
    inner = "" if kernels else f".{LN_TUNING_LAYERS}"
    tensors = {
        f"{module}{inner}.{part}": value
        for module, parts in vectors.norms.items()
        for part, value in parts.items()
    }
    for module, parts in vectors.biases.items():
        inner = f".{BASE_LAYER}" if module in kernels else ""
        tensors[f"{module}{inner}.bias"] = parts["bias"]
    return tensors


def imported_vectors(
    model: keras.layers.Layer, names: Names, tensors: Tensors
) -> tuple[Chosen, dict[str, dict[str, np.ndarray]], Tensors]:
    """Return the vectors among tensors as adapters, with their values by key, and the rest.

    Raises:
        ValueError: If a tensor has another shape than the vector.
    """
    norms, biases = (
        vectors_in(model, names.older, kind)
        | vectors_in(model, names.modules | names.vectors, kind)
        for kind in (NORMS, BIASES)
    )
    chosen: Chosen = []
    values, others = {}, {}
    for module, parts in tensors.items():
        is_norm = "weight" in parts  # a bias alone is one of those that trained with kernels
        found = (norms if is_norm else biases).get(module, {})
        if not parts.keys() <= found.keys():
            others[module] = parts
            continue
        for part, tensor in parts.items():
            site = found[part]
            chosen.append((site, LNTuning() if is_norm else BitFit()))
            values[site.key] = {"shift": _difference(site, f"{module}.{part}", tensor)}
    return chosen, values, others


def _difference(site: Site, told: str, tensor: np.ndarray) -> np.ndarray:
    if tensor.shape != (site.view.n,):
        raise ValueError(
            f"`{site.path}` should have a tensor of shape {(site.view.n,)}: is it of this base "
            f"model? Received: `{told}` of shape {tensor.shape}"
        )
    return tensor - site.matrix()[0]
