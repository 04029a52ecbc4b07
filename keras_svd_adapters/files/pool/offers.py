"""What a pool takes adapters from: a model, an adapter file or arrays."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.own_values import owners_of, variable_of
from keras_svd_adapters.files.archive import Contents, read_archive, warn_of_nan
from keras_svd_adapters.files.fingerprints import same_factor
from keras_svd_adapters.files.matching import KernelMarks, Path, match_sites, value_key
from keras_svd_adapters.files.matching_values import check_factors, factor_samples, fit_shared
from keras_svd_adapters.kernels.low_rank_factors import Factors
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.pool.slot_pool import SlotPool
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.runtime.host_values import to_float_array


class Offer(NamedTuple):
    """An adapter of one kernel.

    Args:
        method: Its method.
        form: Its formulation, `None` for the one that the kernel has here.
        arrays: Its arrays on the host, without those that all adapters of the method share.
        factors: A product that equals the update, if there is one.
    """

    method: Method
    form: str | None
    arrays: Mapping[str, np.ndarray]
    factors: Factors | None


Offers = dict[str, Offer]  # by the key of the kernel


def offers_of_model(
    pool: SlotPool, model: keras.layers.Layer, name: str, marks: KernelMarks
) -> Offers:
    """Return what an adapter on a model has for each kernel; the model may be another one."""
    sites = require_adapter(model, name)
    require_values(model, f"to add {name!r} to a pool")
    for key, path, weight in base_weights(model):
        if name in owners_of(weight):
            _check_other(pool, key, path, to_float_array(variable_of(weight, name)))
    offers = {}
    for site in sites:
        adapter = adapters_of(site.layer)[name]
        ours = pool.sites.get(site.key)
        if ours is not None and ours.layer is not site.layer:
            _check_same_kernel(ours, site, marks)
        if ours is not None and pool.adapter(site.key).method == adapter.method:
            _check_same_factors(pool.adapter(site.key), adapter, site)
        kept = {k: to_float_array(v) for k, v in adapter.arrays.items()}
        offers[site.key] = Offer(
            adapter.method,
            adapter.form,
            {k: v for k, v in kept.items() if adapter.declared[k].in_file},
            None if site.view.count else adapter.method.low_rank(_only(adapter), site.view.m),
        )
    return offers


def offers_of_file(pool: SlotPool, filepath: Path, marks: KernelMarks) -> Offers:
    """Return what an adapter file has for each kernel, after all checks of `load_adapter`."""
    contents = read_archive(filepath)
    chosen = match_sites(pool.model, contents, filepath, marks=marks)
    told = contents.config["sites"]
    offers = {}
    for site, method in chosen:
        arrays = {
            name: contents.values[value_key(told, site.key, method, name)]
            for name, array in site.arrays(method, told[site.key].get("form")).items()
            if array.in_file and not array.shared
        }
        if site.key in pool.sites and pool.adapter(site.key).method == method:
            check_factors(site, pool.adapter(site.key), contents, filepath)
            _check_same_basis(pool.adapter(site.key), contents, site)
        form = told[site.key].get("form")
        offers[site.key] = Offer(method, form, arrays, _factors(site, method, form, arrays))
    fit_shared(pool.model, chosen, contents, filepath)
    weights = {key: (path, weight) for key, path, weight in base_weights(pool.model)}
    for key in contents.config["train"]:
        path = weights[key][0] if key in weights else key
        _check_other(pool, key, path, contents.values[f"train/{key}"])
    warn_of_nan(contents.values, filepath)
    return offers


def offers_of_arrays(
    pool: SlotPool, given: Mapping[str, Mapping[str, Any]], method: Method | None
) -> Offers:
    """Return what a mapping has for each kernel, named by its path or its key in files."""
    keys = {name: key for key, site in pool.sites.items() for name in (key, site.path)}
    offers = {}
    for place, arrays in given.items():
        if place not in keys or not isinstance(arrays, Mapping):
            near = difflib.get_close_matches(str(place), keys, n=1)
            raise ValueError(
                "The arrays are a dictionary for each kernel of the pool, such as "
                f"`{{{(near or [*keys])[0]!r}: {{'lora_a': ..., 'lora_b': ...}}}}`. "
                f"Received: {place!r}: {type(arrays).__name__}"
            )
        site = pool.sites[keys[place]]
        of_kernel = method or pool.adapter(site.key).method
        declared = {k: a for k, a in site.arrays(of_kernel).items() if a.in_file and not a.shared}
        found = {name: np.asarray(value) for name, value in arrays.items()}
        shapes = {name: array.shape for name, array in declared.items()}
        if {name: value.shape for name, value in found.items()} != shapes:
            received = {name: value.shape for name, value in found.items()}
            raise ValueError(
                f"{of_kernel} has the arrays {shapes} on `{site.path}`: give these, or the method "
                f"that yours are of, as `method=`. Received: {received}"
            )
        offers[site.key] = Offer(of_kernel, None, found, _factors(site, of_kernel, None, found))
    return offers


def _factors(
    site: Site, method: Method, form: str | None, arrays: Mapping[str, np.ndarray]
) -> Factors | None:
    """Return a product that equals the update, if the arrays are all that the method reads."""
    is_whole = arrays.keys() == site.arrays(method, form).keys()
    if not is_whole or method.draws(site.view.m, site.view.n, form or site.form(method)):
        return None
    values = {k: v.astype("float64") if v.dtype.kind == "f" else v for k, v in arrays.items()}
    return method.low_rank(SimpleNamespace(**values), site.view.m)


def _only(adapter: Adapter) -> SimpleNamespace:
    (values,) = adapter.numpy_values()
    return values


def _check_other(pool: SlotPool, key: str, path: str, value: np.ndarray) -> None:
    """Raise an error if an adapter trained a weight to other values than the model has."""
    weights = {each: weight for each, _, weight in base_weights(pool.model)}
    if key not in weights or not np.array_equal(to_float_array(weights[key]), value):
        raise ValueError(
            "A pool mixes the kernels of its adapters, and this adapter has its own values of "
            "another weight: attach it with `load_adapter`, or add an adapter without `train=`. "
            f"Received: values of `{path}`"
        )


def _check_same_kernel(ours: Site, theirs: Site, marks: KernelMarks) -> None:
    """Raise an error if an adapter was trained on another kernel."""
    if marks.of(ours, False)[0] != KernelMarks().of(theirs, False)[0]:
        raise ValueError(
            "The adapter is of another base model: add adapters that were trained on this one. "
            f"Received: another kernel of `{ours.path}`"
        )


def _check_same_factors(ours: Adapter, theirs: Adapter, site: Site) -> None:
    """Raise an error if an adapter has other frozen arrays than the pool's adapter."""
    samples = factor_samples(ours)
    same = all(
        same_factor(samples[name], sample, ours.compute_dtype)
        for name, sample in factor_samples(theirs).items()
    )
    shared = ours.shared is theirs.shared or (
        ours.shared is not None
        and theirs.shared is not None
        and ours.shared.digest() == theirs.shared.digest()
    )
    if ours.form != theirs.form or not same or not shared:
        what = "random arrays" if not shared else "singular vectors"
        raise ValueError(
            f"The frozen arrays of the adapter differ from those of the pool: its {what} were "
            "made elsewhere. Make both on the same machine, with the same options. "
            f"Received: {theirs.method} on `{site.path}`"
        )


def _check_same_basis(ours: Adapter, contents: Contents, site: Site) -> None:
    """Raise an error if a file has frozen arrays of its own that differ from the pool's."""
    for name, variable in ours.arrays.items():
        theirs = contents.values.get(f"sites/{site.key}/{name}")
        if theirs is None or ours.declared[name].in_file:
            continue
        if not np.allclose(to_float_array(variable), theirs, rtol=0, atol=1e-3):
            raise ValueError(
                "The file has singular vectors of another machine, and the adapters of a pool "
                "share theirs: save it without `include_basis`, or `load_adapter`. "
                f"Received: `{name}` of `{site.path}`"
            )


def is_path(source: Any) -> bool:
    """Return whether a source is the path or the address of a file."""
    return isinstance(source, str | os.PathLike)
