"""Attaching adapters to a model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import Any

import keras

from keras_svd_adapters.kernels.layout_map import Layouts, check_layouts, override
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import check_methods, check_name, choose_methods
from keras_svd_adapters.models.attaching import (
    arrays_of_all,
    attach_all,
    detach_on_error,
    paths_of,
)
from keras_svd_adapters.models.refresh import train_and_sync
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.state.array_sharing import shared_arrays_for
from keras_svd_adapters.models.state.trained_weights import select_biases, select_weights
from keras_svd_adapters.models.status import Status, status


def enable(
    model: keras.layers.Layer,
    method: Method | None = None,
    targets: Targets = None,
    exclude: Targets = None,
    train: Any = None,
    name: str = "default",
    bias: str = "none",
    verbose: int | str = "auto",
    cache: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    svd_device: str = "cpu",
    layers: Iterable[int] | None = None,
    last: int | None = None,
    tied: bool = False,
    layout: Layouts | None = None,
) -> Status:
    """Adapts a model in place: its kernels freeze, and a few new values train.

    At step 0 the adapted model computes what the model did. After it, exactly
    the adapter's values train, and what `train` names. Compile the model after
    this call, or before: graphs that exist are traced again.

    Args:
        model: A built Keras model: any KerasHub backbone or task, or your own.
        method: A method such as `SVFT(pattern="banded", d=2)`.
        targets: Which kernels. `None` for all inside the repeated blocks; a
            layer name, a path, a glob, a compiled regular expression, a
            callable, or a list of these; `"attention"` or `"mlp"` for these
            parts of the blocks, `"all"` for every kernel but the output head;
            or a mapping from such a pattern to a method, where the first that
            matches counts. An embedding is adapted by its exact name or path,
            or where a callable picks it. `targets(model, ...)` shows what is
            meant.
        exclude: Which of these to leave out.
        train: What trains besides: layer names, or paths of weights such as
            `"*/bias"`. It goes into the adapter file. These weights are the
            model's own and change in place: switching, disabling or deleting
            the adapter leaves them as trained.
        name: Name of the adapter. A second one on the same layers needs
            another name and becomes the active one.
        bias: Which biases train besides, as if `train` named them: `"none"`,
            those of the `"adapted"` layers, or `"all"` of the model.
        verbose: 0 for silence, 1 for a progress bar, `"auto"` for a bar where
            a person looks on.
        cache: Whether decompositions are kept on disk, and found there by the
            next `enable` of any method on the same kernels.
        cache_dir: The folder for them; `None` for the one that the variable
            `KERAS_SVD_ADAPTERS_CACHE` names, or else the user's own.
        svd_device: Where kernels are decomposed: `"cpu"`, exact to float32, or
            `"accelerator"`, the backend's GPU or TPU, to about 1e-5.
        layers: In which of the repeated blocks, such as `range(6, 12)`; what
            lies outside of them is not touched by it.
        last: In how many of the last blocks, instead of `layers`.
        tied: Whether a table that also makes the logits (`tie_weights=True`) is
            adapted where `targets` names it. The look-up and the logits then
            change together; each step makes the whole changed table for these.
        layout: How arrays of the adapter are cut over the devices of
            `keras.distribution`, where it is not to be as their kernels are:
            from a regular expression for the path of a variable, such as
            `".*lora_a"`, to a tuple with an axis of the mesh or `None` for each
            of its axes; or a `keras.distribution.LayoutMap` of such.

    Returns:
        A `Status` of the adapted model; print it.

    Raises:
        ValueError: If a pattern matches nothing, a kernel does not suit the
            method, or the name is taken. The model is left as it was.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> ksa.enable(model, ksa.SVF()).trainable_parameters
    6
    """
    check_name(name)
    service = SVDService(cache, cache_dir, svd_device)
    service.check()
    chosen = choose_methods(model, method, targets, exclude, layers, last, tied)
    check_methods(chosen, name)
    layouts = check_layouts(layout, partial(paths_of, chosen, name))
    sites = [site for site, _ in chosen]
    extra = select_weights(model, train, name, sites) + select_biases(model, bias, name, sites)
    shared = shared_arrays_for(model, chosen)
    with detach_on_error(model, chosen, name):
        attach_all(chosen, name, verbose, shared, service=service)
        override(layouts, arrays_of_all(sites, name))
        train_and_sync(model, name, extra)
    return status(model)
