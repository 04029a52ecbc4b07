"""Saving what was trained, and nothing else, and loading it onto a model."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapter import Adapter
from keras_svd_adapters.archive import AdapterFileError, Contents, read_archive, write_archive
from keras_svd_adapters.enable import (
    Chosen,
    attach_all,
    check_methods,
    check_name,
    finish,
    require_adapter,
    start_adapter,
)
from keras_svd_adapters.fingerprint import factor_sample, kernel_fingerprint, same_factor
from keras_svd_adapters.host import adapters_of
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.root import PACKAGE, trained_with
from keras_svd_adapters.site import Site, adapted_sites, find_sites
from keras_svd_adapters.status import Status, status
from keras_svd_adapters.training import own_weights

FACTORS = ("U", "Vt")
Path = str | os.PathLike[str]


@keras.saving.register_keras_serializable(PACKAGE, "AdapterFile")
class AdapterFile:
    """Names the kind of file in its configuration, for those who load it as a model."""

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        raise ValueError(
            "This file holds an adapter, not a whole model: build its base model, then "
            "`keras_svd_adapters.load_adapter(model, path)`. Received: an adapter file"
        )


def save_adapter(model: keras.layers.Layer, filepath: Path, name: str | None = None) -> None:
    """Saves the values of an adapter, a few hundred kB.

    The file holds every value that trains, its method, and marks of the
    kernels that it belongs to. It is written in one step.

    Args:
        model: An adapted model.
        filepath: Where to, such as `"pirate.keras"`.
        name: Name of the adapter, if there are several.

    Raises:
        ValueError: If there is no such adapter, or several and no `name`.
    """
    name = name or _only_name(model)
    sites = require_adapter(model, name)
    config: dict[str, Any] = {"sites": {}, "train": []}
    values: dict[str, np.ndarray] = {}
    for site in sites:
        adapter = adapters_of(site.layer)[name]
        config["sites"][site.key] = {
            "method": adapter.method.name,
            "config": adapter.method.get_config(),
            "kernel": kernel_fingerprint(site.matrix()),
        }
        for array, value in _saved_arrays(adapter).items():
            values[f"sites/{site.key}/{array}"] = value
    for key, _, weight in own_weights(model):
        if name in trained_with(weight) or weight.trainable:
            config["train"].append(key)
            values[f"train/{key}"] = _to_numpy(weight)
    identity = {"module": PACKAGE, "class_name": "AdapterFile", "config": config}
    identity["registered_name"] = f"{PACKAGE}>AdapterFile"
    write_archive(filepath, Contents(identity, values))


def _only_name(model: keras.layers.Layer) -> str:
    names = sorted({name for site in require_adapter(model) for name in adapters_of(site.layer)})
    if len(names) > 1:
        raise ValueError(
            "The model has several adapters: say which with `name=`. "
            f"Received: adapters {names}, name=None"
        )
    return names[0]


def _saved_arrays(adapter: Adapter) -> dict[str, np.ndarray]:
    """Trained values, the frozen ones that the base cannot give back, and marks of the factors."""
    saved = {name: _to_numpy(v) for name, v in adapter.trained.items()}
    if "pairs" in adapter.arrays:
        saved["pairs"] = _to_numpy(adapter.arrays["pairs"])
    return saved | _factor_samples(adapter)


def _factor_samples(adapter: Adapter) -> dict[str, np.ndarray]:
    if not adapter.method.basis_matters:
        return {}
    factors = {name: adapter.arrays[name] for name in FACTORS if name in adapter.arrays}
    return {f"sample_{name}": factor_sample(_to_numpy(v)) for name, v in factors.items()}


def _to_numpy(variable: keras.Variable) -> np.ndarray:
    value = keras.ops.convert_to_tensor(variable)
    if keras.backend.is_float_dtype(value.dtype):
        value = keras.ops.cast(value, "float32")
    return keras.ops.convert_to_numpy(value)


def load_adapter(
    model: keras.layers.Layer, filepath: Path, name: str = "default", verbose: int | str = "auto"
) -> Status:
    """Loads an adapter onto the model that it was trained on.

    A model without an adapter of this name is adapted first. Everything is
    checked before the model is touched.

    Args:
        model: The base model, adapted or not.
        filepath: A file of `save_adapter`, from any backend.
        name: The name that the adapter gets.
        verbose: As in `enable`.

    Returns:
        A `Status` of the model.

    Raises:
        AdapterFileError: If the file is damaged, newer, or of another model.
            The model is left as it was.
    """
    check_name(name)
    contents = read_archive(filepath)
    try:
        chosen = _fit(model, contents, filepath)
        weights = _fit_weights(model, contents, filepath)
    except (KeyError, TypeError, AttributeError) as error:
        raise AdapterFileError(
            f"The adapter file is not well formed: {error!r}. Received: {str(filepath)!r}"
        ) from None
    if adapted_sites(model, name):
        _assign(model, chosen, contents, name, filepath)
    else:
        check_methods(chosen, name)
        attach_all(chosen, name, verbose, _starter(contents, filepath))
    for key, weight in weights.items():
        weight.assign(contents.values[f"train/{key}"])
    finish(model, name, list(weights.values()))
    return status(model)


def _fit(model: keras.layers.Layer, contents: Contents, filepath: Path) -> Chosen:
    """The sites and methods of a file, if they fit the model and its kernels."""
    by_key = {site.key: site for site in find_sites(model)}
    chosen: Chosen = []
    for key, told in contents.config["sites"].items():
        if key not in by_key:
            near = difflib.get_close_matches(key, by_key, n=1)
            raise _unfit(filepath, f"it adapts `{key}`, which this model lacks; nearest: {near}")
        site = by_key[key]
        if why := site.obstacle():
            raise _unfit(filepath, f"`{site.path}` cannot be adapted: {why}")
        ours, theirs = kernel_fingerprint(site.matrix()), told["kernel"]
        if ours["shape"] != theirs["shape"]:
            raise _unfit(
                filepath,
                f"the kernel of `{site.path}` was {theirs['shape']} and is {ours['shape']}",
            )
        if ours != theirs:
            raise _unfit(filepath, f"the kernel of `{site.path}` has other values")
        method = _method(told, filepath)
        _check_values(site, method, contents, filepath)
        chosen.append((site, method))
    if not chosen:
        raise _unfit(filepath, "it adapts no layer")
    return chosen


def _method(told: dict[str, Any], filepath: Path) -> Method:
    known = Method.registry.get(told["method"])
    if known is None:
        raise _unfit(
            filepath,
            f"its method {told['method']!r} is not one of {', '.join(sorted(Method.registry))}",
        )
    return known.from_config(told["config"])


def _check_values(site: Site, method: Method, contents: Contents, filepath: Path) -> None:
    m, n = site.view.m, site.view.n
    for name, array in method.arrays(m, n, method.form(m, n)).items():
        if array.trainable or name == "pairs":
            value = contents.values[f"sites/{site.key}/{name}"]
            if value.shape != array.shape or value.dtype != np.dtype(array.dtype):
                raise _unfit(
                    filepath,
                    f"`{name}` of `{site.path}` is {value.dtype} {value.shape}, not "
                    f"{array.dtype} {array.shape}",
                )
            if name == "pairs" and not ((value >= 0) & (value < min(m, n))).all():
                raise _unfit(filepath, f"`pairs` of `{site.path}` lie outside the matrix")


def _fit_weights(
    model: keras.layers.Layer, contents: Contents, filepath: Path
) -> dict[str, keras.Variable]:
    """The other trained weights of a file, if the model has them."""
    weights = {key: weight for key, _, weight in own_weights(model)}
    for key in contents.config["train"]:
        shape = contents.values[f"train/{key}"].shape
        if key not in weights or tuple(weights[key].shape) != shape:
            raise _unfit(filepath, f"it trained `{key}` {shape}, which this model lacks")
    return {key: weights[key] for key in contents.config["train"]}


def _starter(contents: Contents, filepath: Path) -> Callable[[Site, Method], Adapter]:
    """Makes adapters that start at the values of the file."""

    def start(site: Site, method: Method) -> Adapter:
        adapter = start_adapter(site, method)
        _check_factors(site, adapter, contents, filepath)
        _take(site, adapter, contents)
        return adapter

    return start


def _take(site: Site, adapter: Adapter, contents: Contents) -> None:
    for name, variable in adapter.arrays.items():
        if (value := contents.values.get(f"sites/{site.key}/{name}")) is not None:
            variable.assign(value)


def _check_factors(site: Site, adapter: Adapter, contents: Contents, filepath: Path) -> None:
    for name, ours in _factor_samples(adapter).items():
        theirs = contents.values.get(f"sites/{site.key}/{name}")
        if theirs is not None and not same_factor(ours, theirs):
            raise _unfit(
                filepath,
                f"the singular vectors of `{site.path}` come out differently here (equal or "
                "nearly equal singular values), so that its values would mean something else",
            )


def _assign(
    model: keras.layers.Layer, chosen: Chosen, contents: Contents, name: str, filepath: Path
) -> None:
    """Puts the values of a file into adapters that are there already."""
    ours = {site.key: adapters_of(site.layer)[name] for site in adapted_sites(model, name)}
    theirs = {site.key: method for site, method in chosen}
    if {key: adapter.method for key, adapter in ours.items()} != theirs:
        raise AdapterFileError(
            "The model has an adapter of this name with other layers or another method. Load "
            "under another `name=`, or `delete_adapter` first. "
            f"Received: {str(filepath)!r}, name={name!r}"
        )
    for site, _ in chosen:
        _check_factors(site, ours[site.key], contents, filepath)
    for site, _ in chosen:
        _take(site, ours[site.key], contents)


def _unfit(filepath: Path, why: str) -> AdapterFileError:
    return AdapterFileError(
        f"The adapter does not fit this model: {why}. Load the base model that it was trained "
        f"on. Received: {str(filepath)!r}"
    )
