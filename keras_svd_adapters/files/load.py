"""Load an adapter file onto a model; check everything before the model changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.attachment import activate
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.files.archive import AdapterFileError, Contents, read_archive, warn_of_nan
from keras_svd_adapters.files.matching import Path, match_sites, value_key
from keras_svd_adapters.files.matching_values import check_factors, fit_shared, fit_weights
from keras_svd_adapters.kernels.layout_map import Layouts, Shapes, check_layouts, override
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import Chosen, check_methods, check_name
from keras_svd_adapters.models.attaching import (
    Starter,
    arrays_of_all,
    attach_all,
    detach_on_error,
    paths_of,
    start_adapter,
)
from keras_svd_adapters.models.decompositions import Found
from keras_svd_adapters.models.named_adapters import require_values
from keras_svd_adapters.models.refresh import train_and_sync
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.array_sharing import Shared
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.models.status import Status, status
from keras_svd_adapters.models.switching import restore_active_on_error
from keras_svd_adapters.runtime.host_values import restore_values_on_error
from keras_svd_adapters.runtime.progress import print_line


@changes_model
def load_adapter(
    model: keras.layers.Layer,
    filepath: Path,
    name: str = "default",
    strict: bool = True,
    verbose: int | str = "auto",
    cache: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    svd_device: str = "auto",
    layout: Layouts | None = None,
) -> Status:
    """Load an adapter onto the model that it was trained on.

    If the model has no adapter of this name, it is adapted first. Everything is
    checked before the model changes. The adapter also loads onto the same base
    in another precision, with a warning that shows the distance of the kernels.

    Args:
        model: The base model, adapted or not.
        filepath: A file of `save_adapter`, from any backend: a path, or an address
            such as `"hf://user/name"`, `"hf://user/name@revision"` or
            `"kaggle://user/model/framework/variation/version"`.
        name: Name of the adapter on this model.
        strict: Whether a layer or weight that the model lacks, or a kernel
            with other values, raises an error. `False` gives a warning and
            loads the rest.
        verbose: As in `enable`.
        cache: As in `enable`.
        cache_dir: As in `enable`.
        svd_device: The same as when the adapter was made, unless the file
            includes the basis.
        layout: As in `enable`; the file does not store a layout.

    Returns:
        A `Status` of the model.

    Raises:
        AdapterFileError: If the file is damaged, has a newer format, or is of
            another model. The model stays unchanged.
        FileNotFoundError: If there is no such file or repository.
        PermissionError: If a hub does not let you read the file.
        ConnectionError: If a hub cannot be reached and the file is not cached.
    """
    check_name(name)
    service = SVDService(cache, cache_dir, svd_device)
    service.check()
    contents = read_archive(filepath)
    require_values(model, f"to load {str(filepath)!r}")
    try:
        chosen = match_sites(model, contents, filepath, strict)
        shared = fit_shared(model, chosen, contents, filepath)
        sites = [site for site, _ in chosen]
        layouts = check_layouts(layout, partial(_paths, model, chosen, name))
        weights = fit_weights(model, contents, filepath, strict, name, sites)
    except (KeyError, TypeError, AttributeError) as error:
        raise AdapterFileError(
            f"The adapter file is not well formed: {error!r}. Received: {str(filepath)!r}"
        ) from None
    warn_of_nan(contents.values, filepath)
    replaced = [
        variable
        for site in adapted_sites(model, name)
        if site.key in contents.config["sites"]
        for variable, _ in _stored(site, adapters_of(site.layer)[name], contents)
    ]
    trained = [contents.values[f"train/{key}"] for key in weights]
    with restore_values_on_error([*weights.values(), *replaced]):
        if adapted_sites(model, name):
            _assign(model, chosen, contents, name, filepath)
            override(layouts, arrays_of_all(sites, name))
            with restore_active_on_error(model):
                for site, _ in chosen:
                    activate(site.layer, name)
                train_and_sync(model, name, list(weights.values()), trained)
        else:
            check_methods(chosen, name)
            with detach_on_error(model, chosen, name):
                start = _starter(contents, filepath, name)
                attach_all(chosen, name, verbose, shared, start, _needs_svd(contents), service)
                override(layouts, arrays_of_all(sites, name))
                train_and_sync(model, name, list(weights.values()), trained)
    unexpected = len(contents.config["sites"]) - len(chosen)
    lacking = len(contents.config["train"]) - len(weights)
    print_line(
        f"{os.path.basename(filepath)}: {len(chosen)} layers matched, 0 missing, {unexpected} "
        f"unexpected; {len(weights)} other weights matched, {lacking} unexpected",
        verbose,
    )
    return status(model)


def _paths(model: keras.layers.Layer, chosen: Chosen, name: str) -> Shapes:
    if not (sites := adapted_sites(model, name)):
        return paths_of(chosen, name)
    return {variable.path: tuple(variable.shape) for variable in arrays_of_all(sites, name)}


def _starter(contents: Contents, filepath: Path, name: str) -> Starter:
    """Return a function that makes adapters that start at the values of the file."""

    def start(site: Site, method: Method, shared: Shared, found: Found) -> Adapter:
        if _is_whole(site, method, contents):
            return _whole_adapter(site, method, shared, contents, name)
        adapter = start_adapter(site, method, shared, found, name)
        check_factors(site, adapter, contents, filepath)
        _take(site, adapter, contents)
        return adapter

    return start


def _has_factors(site: Site, contents: Contents) -> bool:
    return contents.config["sites"][site.key].get("form") is not None


def _is_whole(site: Site, method: Method, contents: Contents) -> bool:
    """Return whether the file holds each array of a kernel that a start would compute."""
    arrays = site.arrays(method).values()
    computed = [array for array in arrays if array.start is None and not array.shared]
    return _has_factors(site, contents) or all(array.in_file for array in computed)


def _needs_svd(contents: Contents) -> Callable[[Site, Method], bool]:
    return lambda site, method: method.needs_svd and not _is_whole(site, method, contents)


def _whole_adapter(
    site: Site, method: Method, shared: Shared, contents: Contents, name: str
) -> Adapter:
    """Return an adapter with the arrays of the file."""
    form = contents.config["sites"][site.key].get("form") or site.form(method)
    adapter = site.new_adapter(method, form, name, {}, shared.get(method.name))
    _take(site, adapter, contents)
    return adapter


def _take(site: Site, adapter: Adapter, contents: Contents) -> None:
    for variable, value in _stored(site, adapter, contents):
        variable.assign(value)


def _stored(
    site: Site, adapter: Adapter, contents: Contents
) -> Iterator[tuple[keras.Variable, np.ndarray]]:
    """Yield each variable of a kernel's adapter that the file has, and its value there."""
    for name, variable in adapter.arrays.items():
        key = value_key(contents.config["sites"], site.key, adapter.method, name)
        if (value := contents.values.get(key)) is not None:
            yield variable, value


def _assign(
    model: keras.layers.Layer, chosen: Chosen, contents: Contents, name: str, filepath: Path
) -> None:
    """Assign the values of a file to adapters that the model already has."""
    ours = {site.key: adapters_of(site.layer)[name] for site in adapted_sites(model, name)}
    theirs = {site.key: method for site, method in chosen}
    if {key: adapter.method for key, adapter in ours.items()} != theirs:
        raise AdapterFileError(
            "The model has an adapter of this name with other layers or another method. Load "
            "under another `name=`, or `delete_adapter` first. "
            f"Received: {str(filepath)!r}, name={name!r}"
        )
    for site, _ in chosen:
        check_factors(site, ours[site.key], contents, filepath)
    for site, _ in chosen:
        _take(site, ours[site.key], contents)
