"""Attach adapters to a model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import Any

import keras

from keras_svd_adapters.kernels.layout_map import Layouts, check_layouts, override
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import (
    allocate,
    check_methods,
    check_name,
    choose_methods,
)
from keras_svd_adapters.models.attaching import (
    arrays_of_all,
    attach_all,
    detach_on_error,
    paths_of,
    start_adapter,
)
from keras_svd_adapters.models.observation.statistics import statistics_for_starts
from keras_svd_adapters.models.refresh import train_and_sync
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.state.array_sharing import shared_arrays_for
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.models.state.trained_weights import select_biases, select_weights
from keras_svd_adapters.models.status import Status, status


@changes_model
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
    svd_device: str = "auto",
    layers: Iterable[int] | None = None,
    last: int | None = None,
    tied: bool = False,
    layout: Layouts | None = None,
    calibrate: Any = None,
) -> Status:
    """Adapt a model in place: freeze its kernels and add a few trainable values.

    At step 0, the adapted model computes the same outputs as before, unless the
    method starts elsewhere on purpose, as the report then says. From then on,
    only the adapter's values and the weights that `train` names are trained.
    Compile the model after this call, or before: existing graphs are traced again.

    Args:
        model: A built Keras model: any KerasHub backbone or task, or your own.
        method: A method such as `SVFT(pattern="banded", d=2)`.
        targets: Which kernels to adapt. `None` selects all kernels inside the
            repeated blocks. A layer name, a path, a glob, a compiled regular
            expression, a callable, or a list of these selects the matching
            kernels. `"attention"` or `"mlp"` selects these parts of the blocks,
            `"all"` every kernel except the output head. A mapping from such a
            pattern to a method uses the first pattern that matches. An embedding
            is selected only by its exact name or path, or by a callable.
            `targets(model, ...)` shows the selected kernels.
        exclude: Which of these kernels to leave out.
        train: Other weights to train: layer names, or paths of weights such as
            `"*/bias"`. The adapter file stores these weights. They change in
            place and keep their trained values if you disable or delete the
            adapter. If several adapters train one weight, each has its own
            values, which start from those that the weight has at this call.
        name: Name of the adapter. A second adapter on the same layers needs
            another name and becomes the active one.
        bias: Which biases also train, as if `train` named them: `"none"`,
            those of the `"adapted"` layers, or `"all"` of the model.
        verbose: 0 for silence, 1 for a progress bar, `"auto"` for a bar in an
            interactive session.
        cache: Whether decompositions are cached on disk and reused by later calls
            of `enable` on the same kernels, with any method.
        cache_dir: The folder of the cache. `None` uses the folder in the
            environment variable `KERAS_SVD_ADAPTERS_CACHE`, or else the user's
            own cache folder.
        svd_device: Where kernels are decomposed. `"auto"` takes a GPU if the backend
            has one, else the host; both compute in float64. `"cpu"` is the host.
            `"accelerator"` is the GPU, or the TPU, which is exact to about 1e-5.
        layers: Numbers of the repeated blocks to adapt, such as `range(6, 12)`.
            Kernels outside the blocks are not affected.
        last: Number of blocks to adapt, counted from the end, instead of `layers`.
        tied: Whether to adapt a table that also computes the logits
            (`tie_weights=True`) if `targets` names it. The look-up and the logits
            then change together. Each step computes the whole changed table for
            the logits.
        layout: How arrays of the adapter are sharded over the devices of
            `keras.distribution`, if not as their kernels. A mapping from a regular
            expression for the path of a variable, such as `".*lora_a"`, to a
            tuple. The tuple has a mesh axis or `None` for each axis of the
            variable. A `keras.distribution.LayoutMap` with such entries also works.
        calibrate: Data for a start that reads some, such as
            `LoRA(start="eva")`: some hundred samples, which pass the model once,
            or several times if the statistics of all kernels need too much memory.
            Inputs, a tuple `(x, y)` or `(x, y, sample_weight)`, or a dataset of
            batches, as in `fit`. A start that reads gradients needs targets and
            a compiled model. Padding that a mask names does not count. The
            adapter file holds what the data made, so that loading needs no data.

    Returns:
        A `Status` of the adapted model; print it.

    Raises:
        ValueError: If a pattern matches nothing, a kernel does not suit the
            method, the name is taken, or data for a start is missing or does not
            suit. The model stays unchanged.

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
    observed = statistics_for_starts(model, chosen, calibrate, verbose)
    chosen = allocate(chosen, observed)
    sites = [site for site, _ in chosen]
    start = partial(start_adapter, name=name, observed=observed)
    with detach_on_error(model, chosen, name):
        attach_all(chosen, name, verbose, shared, start, service=service)
        override(layouts, arrays_of_all(sites, name))
        train_and_sync(model, name, extra)
    return status(model)
