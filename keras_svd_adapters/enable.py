"""Attaching adapters to a model."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from math import prod
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapter import Adapter
from keras_svd_adapters.frozen_variables import is_pinned
from keras_svd_adapters.host import (
    PREFIX,
    activate,
    adapters_of,
    attach,
    base_kernel,
    detach,
)
from keras_svd_adapters.layout import Layouts, check_layout, check_layouts, override
from keras_svd_adapters.methods.method import SVD, Method, Truncation
from keras_svd_adapters.processes import from_process
from keras_svd_adapters.progress import KernelProgress
from keras_svd_adapters.shared import SharedArrays
from keras_svd_adapters.sharing import Shared, share
from keras_svd_adapters.site import Site, adapted_sites, find_sites
from keras_svd_adapters.status import Status, status
from keras_svd_adapters.svd_job import Job
from keras_svd_adapters.svd_service import SVDService
from keras_svd_adapters.switching import finish, restore_plain, settle
from keras_svd_adapters.targets import Targets, choose, meant_by
from keras_svd_adapters.warning import warn
from keras_svd_adapters.weights import choose_biases, choose_weights, own_weights, trained_with

Chosen = list[tuple[Site, Method]]
Found = list[tuple[np.ndarray, SVD | None]]
Starter = Callable[[Site, Method, Shared, Found], Adapter]


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
    extra = choose_weights(model, train, name, sites) + choose_biases(model, bias, name, sites)
    shared = share(model, chosen)
    with undone_on_failure(model, chosen, name):
        attach_all(chosen, name, verbose, shared, service=service)
        override(layouts, arrays_of_all(sites, name))
        finish(model, name, extra)
    return status(model)


def arrays_of_all(sites: Iterable[Site], name: str) -> list[keras.Variable]:
    """The variables of an adapter, those that kernels share once."""
    adapters = [adapters_of(site.layer)[name] for site in sites]
    shared = {id(a.shared): a.shared for a in adapters if a.shared is not None}
    holders: list[Adapter | SharedArrays] = [*adapters, *shared.values()]
    return [variable for holder in holders for variable in holder.arrays.values()]


def paths_of(chosen: Chosen, name: str) -> dict[str, tuple[int, ...] | None]:
    """The paths and shapes of the variables that an adapter may have, as `Site.paths`."""
    each = (site.paths(method, name) for site, method in chosen)
    return {path: shape for paths in each for path, shape in paths.items()}


def check_name(name: str) -> None:
    """Raises where an adapter cannot have this name."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            "The name of an adapter is a word of letters, digits and underscores, such as "
            f"'pirate'. Received: name={name!r}"
        )


def choose_methods(
    model: keras.layers.Layer, method: Method | None, targets: Targets, *which: Any
) -> Chosen:
    """The sites to adapt, each with its method: that of the first pattern which means it."""
    if not isinstance(targets, Mapping) or not targets:
        return [(site, _require_method(method)) for site in choose(model, targets, *which)]
    if method is not None and all(targets.values()):
        raise ValueError(
            "Each of these targets has a method of its own, so `method` has no part: leave it "
            f"out, or give it to a target by `None`. Received: method={method!r}, {targets!r}"
        )
    sites = choose(model, list(targets), *which)
    everything = find_sites(model)
    rules: dict[str, Any] = {}
    for pattern, rule in targets.items():
        for site in meant_by(pattern, model, everything):
            rules.setdefault(site.key, rule or method)
    return [(site, _require_method(rules[site.key])) for site in sites]


def _require_method(method: Any) -> Method:
    if not isinstance(method, Method):
        raise ValueError(
            "`method` is one such as `SVFT(pattern='banded', d=2)` or `LoRA(rank=8)`, with its "
            f"arguments in brackets. Received: method={method!r}"
        )
    return method


def check_methods(chosen: Chosen, name: str) -> None:
    """Raises where a kernel does not suit its method, or has an adapter of this name."""
    check_shapes(chosen)
    for site, _ in chosen:
        if hasattr(site.layer, PREFIX + name):
            raise ValueError(
                f"`{site.path}` has an adapter of this name. To start over, "
                f"`delete_adapter(model, {name!r})` first; to keep both, give the new one another "
                "`name=`. "
                f"Received: name={name!r}"
            )


def check_shapes(chosen: Chosen) -> None:
    """Raises where a kernel does not suit its method."""
    for site, method in chosen:
        check_layout(base_kernel(site.layer))
        try:
            site.check(method)
        except ValueError as error:
            raise ValueError(f"{method} does not suit `{site.path}`. {error}") from None
    dry = [site.path for site, m in chosen if getattr(m, "dropout", 0) and not site.host.called]
    if dry:
        warn(
            f"The layers of {len(dry)} kernels read them, without an input for the dropout: they "
            "adapt without it. Give them a method with `dropout=0` to go without this "
            f"warning. Received: {', '.join(dry[:3])}{', ...' * (len(dry) > 3)}"
        )


def needs_svd(site: Site, method: Method) -> bool:
    """Whether the method starts from the decomposition of the kernel."""
    return method.needs_svd


def jobs_for(site: Site, part: Truncation | None = None, wanted: bool = True) -> list[Job]:
    """The decomposition of a kernel, or of each in a stack."""
    shape = (site.view.m, site.view.n)
    return [Job(matrix, shape, part, wanted) for _, matrix in site.matrices()]


def attach_all(
    chosen: Chosen,
    name: str,
    verbose: int | str,
    shared: Shared,
    start: Starter | None = None,
    needs_svd: Callable[[Site, Method], bool] = needs_svd,
    service: SVDService | None = None,
) -> None:
    """Attaches adapters in the order of the kernels, while the next ones are decomposed."""
    start = start or partial(start_adapter, name=name)
    jobs = [jobs_for(site, method.truncation, needs_svd(site, method)) for site, method in chosen]
    sites = [site for site, _ in chosen]
    with closing(decompositions(sites, jobs, service or SVDService(), verbose)) as every:
        for found, (site, method) in zip(every, chosen, strict=True):
            attach(site.layer, name, start(site, method, shared, found))


def decompositions(
    sites: Sequence[Site], jobs: Sequence[list[Job]], service: SVDService, verbose: int | str
) -> Generator[Found]:
    """As `SVDService.each`, those of a site together, with a bar; errors say which it is."""
    flat = list(chain.from_iterable(jobs))
    work = [prod(job.shape) * min(job.shape) for job in flat]
    results = service.each(flat)
    with KernelProgress(work, verbose) as progress, closing(results):
        for site in sites:
            found = []
            for path, _ in site.matrices():
                try:
                    found.append(next(results))
                except ValueError as error:
                    raise ValueError(f"`{path}`: {error}") from None
                progress.step(path)
            yield found


@contextmanager
def undone_on_failure(model: keras.layers.Layer, chosen: Chosen, name: str) -> Iterator[None]:
    """Within, whatever stops the attaching of an adapter, nothing of it stays."""
    before = {id(site.layer): getattr(site.layer, "active_adapter", None) for site, _ in chosen}
    weights = [(w, trained_with(w), is_pinned(w)) for _, _, w in own_weights(model)]
    try:
        yield
    except BaseException:
        for site, _ in chosen:
            if name in adapters_of(site.layer):
                detach(site.layer, name)
            if adapters_of(site.layer):
                activate(site.layer, before[id(site.layer)])
        settled = any(is_pinned(weight) != was for weight, _, was in weights)
        for weight, owner, _ in weights:
            if trained_with(weight) != owner:
                weight.trained_with = owner
        if settled:
            settle(model) if adapted_sites(model) else restore_plain(model)
        raise


def start_adapter(site: Site, method: Method, shared: Shared, found: Found, name: str) -> Adapter:
    """A new adapter for a site, with its factors from the kernel as it is."""
    form = site.form(method, [svd.s for _, svd in found if svd is not None])
    rng = np.random.default_rng(from_process(0, lambda: random.getrandbits(32)))
    values = site.view.joined([method.start(K, form, rng, svd) for K, svd in found])
    return site.new_adapter(method, form, name, values, shared.get(method.name))
