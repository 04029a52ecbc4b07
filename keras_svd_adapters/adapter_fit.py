"""Whether an adapter file fits a model, checked before the model is touched."""

from __future__ import annotations

import difflib
import os
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapter import Adapter
from keras_svd_adapters.archive import AdapterFileError, Contents
from keras_svd_adapters.fingerprint import (
    factor_sample,
    has_equal_values,
    kernel_fingerprint,
    same_factor,
)
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.sharing import Shared, Values, same_values, share
from keras_svd_adapters.site import Site, find_sites
from keras_svd_adapters.weights import own_weights

Path = str | os.PathLike[str]


def fit_sites(
    model: keras.layers.Layer, contents: Contents, filepath: Path
) -> list[tuple[Site, Method]]:
    """The sites and methods of a file, if they fit the model and its kernels."""
    by_key = {site.key: site for site in find_sites(model)}
    chosen: list[tuple[Site, Method]] = []
    for key, told in contents.config["sites"].items():
        if key not in by_key:
            near = difflib.get_close_matches(key, by_key, n=1)
            raise _unfit(filepath, f"it adapts `{key}`, which this model lacks; nearest: {near}")
        site = by_key[key]
        if why := site.obstacle():
            raise _unfit(filepath, f"`{site.path}` cannot be adapted: {why}")
        ours, theirs = kernel_fingerprint(site.matrix(), site.dtype), told["kernel"]
        if ours["shape"] != theirs["shape"]:
            raise _unfit(
                filepath,
                f"the kernel of `{site.path}` was {theirs['shape']} and is {ours['shape']}",
            )
        if ours["dtype"] != theirs["dtype"]:
            raise _unfit(
                filepath,
                f"it was trained on {theirs['dtype']} kernels and these are {ours['dtype']}; load "
                f"the base model with `dtype={theirs['dtype']!r}`",
            )
        if ours["sha256"] != theirs["sha256"]:
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
    try:
        return known.from_config(told["config"])
    except (TypeError, ValueError) as error:
        raise _unfit(filepath, f"its method has hyperparameters unknown here: {error}") from None


def _check_values(site: Site, method: Method, contents: Contents, filepath: Path) -> None:
    m, n = site.view.m, site.view.n
    for name, array in method.arrays(m, n, site.form(method)).items():
        if array.in_file and not array.shared:
            value = contents.values[f"sites/{site.key}/{name}"]
            if value.shape != array.shape or value.dtype != np.dtype(array.dtype):
                raise _unfit(
                    filepath,
                    f"`{name}` of `{site.path}` is {value.dtype} {value.shape}, not "
                    f"{array.dtype} {array.shape}",
                )
            if name == "pairs" and not ((value >= 0) & (value < min(m, n))).all():
                raise _unfit(filepath, f"`pairs` of `{site.path}` lie outside the matrix")


def fit_shared(
    model: keras.layers.Layer,
    chosen: list[tuple[Site, Method]],
    contents: Contents,
    filepath: Path,
) -> Shared:
    """The arrays that the adapters of a file share: the model's own, if they are the same."""
    methods = {method.name: method for _, method in chosen}
    values: Values = {}
    for name, told in contents.config.get("shared", {}).items():
        shapes = {array: tuple(shape) for array, shape in told.items()}
        stored = {array: f"shared/{name}/{array}" for array in shapes}
        if contents.values.keys() >= set(stored.values()):
            values[name] = {array: contents.values[key] for array, key in stored.items()}
        else:
            values[name] = methods[name].start_shared(shapes)
    try:
        found = share(model, chosen, values)
    except ValueError as error:
        raise _unfit(filepath, f"its shared arrays disagree with the model's: {error}") from None
    for name, shared in found.items():
        if name in values and not same_values(shared, values[name]):
            raise _unfit(
                filepath,
                f"its {name} adapters share other random arrays than those that are on the model; "
                "take those off with `delete_adapter`",
            )
    return found


def fit_weights(
    model: keras.layers.Layer, contents: Contents, filepath: Path
) -> dict[str, keras.Variable]:
    """The other trained weights of a file, if the model has them."""
    weights = {key: weight for key, _, weight in own_weights(model)}
    for key in contents.config["train"]:
        shape = contents.values[f"train/{key}"].shape
        if key not in weights or tuple(weights[key].shape) != shape:
            raise _unfit(filepath, f"it trained `{key}` {shape}, which this model lacks")
    return {key: weights[key] for key in contents.config["train"]}


def check_factors(site: Site, adapter: Adapter, contents: Contents, filepath: Path) -> None:
    for name, ours in factor_samples(adapter).items():
        theirs = contents.values.get(f"sites/{site.key}/{name}")
        if theirs is not None and not same_factor(ours, theirs):
            raise _unfit(
                filepath,
                f"the singular vectors of `{site.path}` come out differently here (equal or "
                "nearly equal singular values), so that its values would mean something else",
            )


def _unfit(filepath: Path, why: str) -> AdapterFileError:
    return AdapterFileError(
        f"The adapter does not fit this model: {why}. Load the base model that it was trained "
        f"on. Received: {str(filepath)!r}"
    )


def factor_samples(adapter: Adapter) -> dict[str, np.ndarray]:
    """Marks of the factors, where the trained values depend on which they are."""
    arrays = adapter.arrays
    if "s" not in arrays:
        return {}
    if not (adapter.method.basis_matters or has_equal_values(to_numpy(arrays["s"]))):
        return {}
    samples = {}
    if "U" in arrays:
        samples["sample_U"] = factor_sample(to_numpy(arrays["U"]))
    if "Vt" in arrays:
        samples["sample_Vt"] = factor_sample(to_numpy(arrays["Vt"]).T)
    return samples


def to_numpy(variable: keras.Variable) -> np.ndarray:
    value = keras.ops.convert_to_tensor(variable)
    if keras.backend.is_float_dtype(value.dtype):
        value = keras.ops.cast(value, "float32")
    return keras.ops.convert_to_numpy(value)
