"""Match a PEFT directory with a model; raise if the two do not fit."""

from __future__ import annotations

import os
import re
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.files.peft.arrays import ARRAYS, COMMON, PREFIX, arrays_of
from keras_svd_adapters.files.peft.modules import Modules, Names, name_modules, prefix_in
from keras_svd_adapters.files.peft.settings import method_for
from keras_svd_adapters.files.peft.shared_bases import SHARED, SHARED_KEYS
from keras_svd_adapters.files.peft.twins import with_bias
from keras_svd_adapters.files.peft.vectors import BASE_LAYER, LN_TUNING_LAYERS, Tensors
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import Chosen
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.array_sharing import Shared, same_values, shared_arrays_for
from keras_svd_adapters.runtime.warnings import warn

# PEFT also writes the frozen table under an adapted embedding, RandLoRA's bases for each module,
# and with biases those of modules that are saved whole: the frozen ones, and the others twice.
BESIDE = re.compile(r"\.base_layer\.weight$|\.randlora_[AB]$|\.(original_module|modules_to_save)\.")
INNER = re.compile(rf"\.({BASE_LAYER}|{LN_TUNING_LAYERS})$")


def check_finite(tensors: dict[str, np.ndarray]) -> None:
    for key, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"A tensor has NaN or infinite values. Received: {key}")


def by_module(tensors: dict[str, np.ndarray]) -> tuple[Tensors, Tensors]:
    """Split tensors into arrays of adapted modules and weights of modules that are saved whole."""
    adapters: Tensors = {}
    others: Tensors = {}
    for key, tensor in sorted(tensors.items()):
        if key in SHARED_KEYS or key in COMMON or BESIDE.search(key):
            continue
        module = key.removeprefix(PREFIX)
        array = next((array for array in ARRAYS if module.endswith(f".{array}")), None)
        if array is not None:
            adapters.setdefault(module[: -len(array) - 1], {})[array] = tensor
        else:
            whole, _, part = module.rpartition(".")
            others.setdefault(INNER.sub("", whole), {})[part] = tensor
    common = {array: tensors[key] for key, array in COMMON.items() if key in tensors}
    return {module: arrays | common for module, arrays in adapters.items()}, others


def names_in(
    model: keras.layers.Layer, told: list[str], modules: Modules | None, prefix: str | None
) -> Names:
    """Return the names of a model under the prefix of the modules of a file."""
    if prefix is None:
        bare = name_modules(model, modules, "")
        known = [*bare.modules.values(), *bare.vectors.values(), *bare.older.values()]
        heads = bare.heads  # heads have no prefix, so they do not determine it
        prefix = prefix_in(
            [module for module in told if module not in heads],
            [module for module in known if module not in heads],
        )
    return name_modules(model, modules, prefix)


def sites_of(model: keras.layers.Layer, names: Names) -> dict[str, Site]:
    """Return the kernels of a model by their modules."""
    sites = {site.key: site for site in find_sites(model)}
    both = [*names.older.items(), *names.modules.items()]
    return {module: sites[key] for key, module in both if key in sites}


def method_of(
    config: dict[str, Any], module: str, site: Site, arrays: dict[str, np.ndarray]
) -> Method:
    """Return the method of a kernel; raise if the tensors do not fit the method."""
    try:
        method = method_for(config, module)
        method = with_bias(method, site.view.m, site.view.n, site.layer)
        site.check(method)
    except (ValueError, TypeError) as error:
        raise ValueError(f"The adapter does not suit `{site.path}`, `{module}`: {error}") from None
    expected = arrays_of(site, method)
    if expected.keys() != arrays.keys():
        raise ValueError(f"`{module}` should have {sorted(expected)}. Received: {sorted(arrays)}")
    for array, shape in expected.items():
        if arrays[array].shape != shape:
            raise ValueError(
                f"`{module}`, which is `{site.path}` here, should have `{array}` of shape {shape}: "
                f"is it of this base model? Received: {arrays[array].shape}"
            )
    return method


def check_places(unknown: list[str], directory: Any, strict: bool) -> None:
    if not unknown:
        return
    text = (
        "The model has no place for {} modules of the PEFT adapter: is it of this base model? "
        "Name kernels by `modules=`{}. Received: {!r}, {}"
    )
    shown = ", ".join(unknown[:3]) + ", ..." * (len(unknown) > 3)
    where = os.fspath(directory)
    if strict:
        out = ", or leave them out with `strict=False`"
        raise ValueError(text.format(len(unknown), out, where, shown))
    warn(text.format(len(unknown), "", where, shown))


def shared_of(model: keras.layers.Layer, chosen: Chosen, tensors: dict[str, np.ndarray]) -> Shared:
    """Return the random arrays that the kernels share, which must be in the file."""
    method = chosen[0][1]
    if (bases := SHARED.get(type(method))) is None:
        return {}
    kind = type(method).__name__
    if not tensors.keys() >= set(bases.keys):
        raise ValueError(
            f"The directory lacks the random arrays of {kind}, which only PyTorch can make from "
            "the seed. Save them in PEFT with `save_projection=True`. Received: tensors "
            f"{sorted(tensors)[:3]}"
        )
    kernels = [(site.view.m, site.view.n) for site, m in chosen if isinstance(m, type(method))]
    values = bases.from_peft(method, tensors, kernels)
    shared = shared_arrays_for(model, chosen, {method.name: values})
    if not same_values(shared[method.name], values):
        raise ValueError(
            f"The model has {kind} adapters with other random arrays, which all share. Remove "
            f"these with `delete_adapter`, or load onto a model without {kind}. "
            f"Received: {method}"
        )
    return shared
