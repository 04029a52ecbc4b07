"""Match saved arrays with the arrays of a model."""

from __future__ import annotations

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.shared_arrays import Shapes, covering_shapes
from keras_svd_adapters.files.archive import AdapterFileError, Contents
from keras_svd_adapters.files.fingerprints import factor_sample, has_equal_values, same_factor
from keras_svd_adapters.files.matching import (
    ANOTHER_BASE,
    TAKE_OFF,
    Path,
    _mismatch_error,
    _warn_of,
)
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.array_sharing import (
    Shared,
    Values,
    same_values,
    shared_arrays_for,
)
from keras_svd_adapters.models.state.trained_weights import base_weights, check_weights
from keras_svd_adapters.runtime.host_values import to_float_array


def fit_shared(
    model: keras.layers.Layer,
    chosen: list[tuple[Site, Method]],
    contents: Contents,
    filepath: Path,
) -> Shared:
    """Return the arrays that the adapters of a file share: the model's own if they are equal."""
    methods = {method.name: method for _, method in chosen}
    values: Values = {}
    for name, told in contents.config.get("shared", {}).items():
        shapes = {array: tuple(shape) for array, shape in told.items()}
        stored = {array: f"shared/{name}/{array}" for array in shapes}
        _check_size(model, methods[name], shapes, filepath)
        if contents.values.keys() >= set(stored.values()):
            values[name] = {array: contents.values[key] for array, key in stored.items()}
        else:
            values[name] = methods[name].start_shared(shapes)
    try:
        found = shared_arrays_for(model, chosen, values)
    except ValueError as error:
        why = f"its shared arrays disagree with those of the adapters on the model: {error}"
        raise _mismatch_error(filepath, why, TAKE_OFF) from None
    for name, shared in found.items():
        if name in values and not same_values(shared, values[name]):
            raise _mismatch_error(
                filepath,
                f"its {name} adapters share other random arrays than the adapters of the model",
                TAKE_OFF,
            )
    return found


def _check_size(model: keras.layers.Layer, method: Method, shapes: Shapes, filepath: Path) -> None:
    """Raise if shared arrays are larger than all kernels of the model together need."""
    views = [site.view for site in find_sites(model) if site.exclusion_reason(tied=True) is None]
    needed = covering_shapes([method.arrays(v.m, v.n, method.form(v.m, v.n)) for v in views])
    for array, shape in shapes.items():
        most = needed.get(array, ())
        if len(shape) != len(most) or any(a > b for a, b in zip(shape, most, strict=True)):
            raise _mismatch_error(
                filepath, f"its shared `{array}` is {shape}, and this model has room for {most}"
            )


def fit_weights(
    model: keras.layers.Layer,
    contents: Contents,
    filepath: Path,
    strict: bool,
    name: str,
    sites: list[Site],
) -> dict[str, keras.Variable]:
    """Return the other trained weights of a file; raise if another adapter trains them.

    A weight that the model lacks raises an error, or a warning without `strict`.
    """
    weights, paths = {}, {}
    for key, path, weight in base_weights(model):
        weights[key], paths[key] = weight, path
    found: dict[str, keras.Variable] = {}
    for key in contents.config["train"]:
        shape = contents.values[f"train/{key}"].shape
        if key in weights and tuple(weights[key].shape) == shape:
            found[key] = weights[key]
            continue
        why, instead = f"it trained `{key}` {shape}, which this model lacks", ANOTHER_BASE
        if key in weights:
            here = tuple(weights[key].shape)
            why = f"it trained `{paths[key]}` of shape {shape}, and here its shape is {here}"
            instead = "Build the model with the shape of the file"
        if strict:
            raise _mismatch_error(filepath, why, f"{instead}, or the rest with `strict=False`")
        _warn_of(why[0].upper() + why[1:], filepath)
    try:
        check_weights(model, list(found.values()), f"file {str(filepath)!r}", name, sites)
    except ValueError as error:
        raise AdapterFileError(
            f"The file also holds trained weights of the model. {error}"
        ) from None
    return found


def check_factors(site: Site, adapter: Adapter, contents: Contents, filepath: Path) -> None:
    """Raise if the singular vectors on this machine differ from those of the file."""
    dtype = contents.config["sites"][site.key]["kernel"]["dtype"]
    for name, ours in factor_samples(adapter).items():
        theirs = contents.values.get(f"sites/{site.key}/{name}")
        if theirs is not None and not same_factor(ours, theirs, adapter.compute_dtype):
            why = "equal or nearly equal singular values, or another `svd_device`"
            if dtype != site.dtype:
                why = f"it was trained on {dtype} kernels and these are {site.dtype}"
            raise _mismatch_error(
                filepath,
                f"the singular vectors of `{site.path}` come out differently here ({why}), so its "
                "values would have another meaning",
                "Load the base model that it was trained on, or save the adapter there again "
                "with `include_basis=True`, which stores the vectors in the file",
            )


def factor_samples(adapter: Adapter) -> dict[str, np.ndarray]:
    """Return fingerprints of the factors, if the trained values depend on the exact factors."""
    arrays = adapter.arrays
    if "s" not in arrays:
        return {}
    if not (adapter.method.basis_matters or has_equal_values(to_float_array(arrays["s"]))):
        return {}
    samples = {}
    if "U" in arrays:
        samples["sample_U"] = factor_sample(to_float_array(arrays["U"]))
    if "Vt" in arrays:
        samples["sample_Vt"] = factor_sample(to_float_array(arrays["Vt"]).swapaxes(-1, -2))
    return samples
