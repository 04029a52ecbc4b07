"""Attach new adapters to the kernels of a model, all or none."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.attachment import activate, activation_of, attach, detach
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.frozen_variables import is_frozen_variable
from keras_svd_adapters.adapters.shared_arrays import SharedArrays
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.statistics import Statistics
from keras_svd_adapters.models.assignment import Chosen
from keras_svd_adapters.models.decompositions import Found, decompositions, jobs_for, needs_svd
from keras_svd_adapters.models.observation.statistics import Observed
from keras_svd_adapters.models.refresh import restore_base_model, sync_model
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.array_sharing import Shared
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.models.state.weight_owners import restore_owners_on_error
from keras_svd_adapters.runtime.live_models import with_models_around
from keras_svd_adapters.runtime.processes import broadcast_from

Starter = Callable[[Site, Method, Shared, Found], Adapter]


def arrays_of_all(sites: Iterable[Site], name: str) -> list[keras.Variable]:
    """Return the variables of an adapter, each variable that kernels share only once."""
    adapters = [adapters_of(site.layer)[name] for site in sites]
    shared = {id(a.shared): a.shared for a in adapters if a.shared is not None}
    holders: list[Adapter | SharedArrays] = [*adapters, *shared.values()]
    return [variable for holder in holders for variable in holder.arrays.values()]


def paths_of(chosen: Chosen, name: str) -> dict[str, tuple[int, ...] | None]:
    """Return the paths and shapes of the variables that an adapter may have, as `Site.paths`."""
    each = (site.paths(method, name) for site, method in chosen)
    return {path: shape for paths in each for path, shape in paths.items()}


def attach_all(
    chosen: Chosen,
    name: str,
    verbose: int | str,
    shared: Shared,
    start: Starter | None = None,
    needs_svd: Callable[[Site, Method], bool] = needs_svd,
    service: SVDService | None = None,
) -> None:
    """Attach adapters in the order of the kernels, while the next kernels are decomposed."""
    start = start or partial(start_adapter, name=name)
    jobs = [jobs_for(site, method.truncation, needs_svd(site, method)) for site, method in chosen]
    sites = [site for site, _ in chosen]
    with closing(decompositions(sites, jobs, service or SVDService(), verbose)) as every:
        for found, (site, method) in zip(every, chosen, strict=True):
            attach(site.layer, name, start(site, method, shared, found))


@contextmanager
def detach_on_error(model: keras.layers.Layer, chosen: Chosen, name: str) -> Iterator[None]:
    """Context manager: if an error or interrupt stops the attaching, undo it completely."""
    before = {id(site.layer): activation_of(site.layer) for site, _ in chosen}
    weights = [(weight, is_frozen_variable(weight)) for _, _, weight in base_weights(model)]
    try:
        with restore_owners_on_error(with_models_around(model)):
            yield
    except BaseException:
        for site, _ in chosen:
            if name in adapters_of(site.layer):
                detach(site.layer, name)
            if adapters_of(site.layer):
                activate(site.layer, *before[id(site.layer)])
        if any(is_frozen_variable(weight) != was for weight, was in weights):
            sync_model(model) if adapted_sites(model) else restore_base_model(model)
        raise


def start_adapter(
    site: Site,
    method: Method,
    shared: Shared,
    found: Found,
    name: str,
    observed: Observed | None = None,
) -> Adapter:
    """Create a new adapter for a site, with factors of the current kernel.

    Args:
        site: The kernel.
        method: The method.
        shared: The shared arrays of the model.
        found: The kernel as matrices, each with its decomposition.
        name: Name of the adapter.
        observed: The statistics of each matrix of each kernel, if methods need any.
    """
    data = [Statistics()] * len(found)
    if observed is not None:
        data = observed.pop(site.key, data)  # it may be large
    elif method.needs:
        raise ValueError(
            "This start reads data: adapt the model by `enable(model, method, calibrate=x)`, where "
            f"`x` holds some hundred samples. Received: {method} on `{site.path}`"
        )
    form = site.form(method, [svd.s for _, svd in found if svd is not None])
    rng = np.random.default_rng(broadcast_from(0, lambda: random.getrandbits(32)))
    every = zip(found, data, strict=True)
    each = [method.first_values(K, form, rng, svd, of_one) for (K, svd), of_one in every]
    values = site.view.joined(each) | {k: v for k, v in each[0].items() if k in method.tied}
    return site.new_adapter(method, form, name, values, shared.get(method.name))
