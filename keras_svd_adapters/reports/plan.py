"""Estimate the cost of adapting a model, before the model changes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from math import prod
from typing import Any

import keras

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.kernels.svd.cost import decomposition_seconds
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import Chosen, check_shapes, choose_methods
from keras_svd_adapters.models.decompositions import jobs_for, needs_svd
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.array_sharing import (
    check_sharing,
    find_shared_arrays,
    own_arrays,
    shared_dtype,
    shared_shapes,
    tied_groups,
)
from keras_svd_adapters.models.state.trained_weights import (
    base_weights,
    select_biases,
    select_weights,
)
from keras_svd_adapters.models.without_weights import ModelSource, build_without_values
from keras_svd_adapters.reports.device_memory import (
    DeviceBytes,
    bytes_per_device,
    check_devices,
    width,
)
from keras_svd_adapters.reports.plan_report import Plan, PlannedSite
from keras_svd_adapters.runtime.keras_private.layers import all_layers, trainable_by_birth


def plan(
    model: keras.layers.Layer | ModelSource,
    method: Method | None = None,
    targets: Targets = None,
    exclude: Targets = None,
    cache: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    svd_device: str = "auto",
    layers: Iterable[int] | None = None,
    last: int | None = None,
    tied: bool = False,
    distribution: Any = None,
    device_memory: float | None = None,
    train: Any = None,
    bias: str = "none",
    name: str = "default",
) -> Plan:
    """Estimate the cost of `enable` without changing the model.

    Args:
        model: A built Keras model, or a model without weights: a KerasHub
            preset, by its directory or name, or a configuration, such as
            `{"class_name": "GemmaBackbone", "config": {...}}`. A model without
            weights is built from shapes alone, so that a laptop can plan for
            70 billion values.
        method: As in `enable`.
        targets: As in `enable`.
        exclude: As in `enable`.
        cache: As in `enable`; cached decompositions are not computed again.
        cache_dir: As in `enable`.
        svd_device: As in `enable`; the seconds are always those of a CPU.
        layers: As in `enable`.
        last: As in `enable`.
        tied: As in `enable`.
        distribution: A `keras.distribution` such as `ModelParallel`. The plan
            then includes the memory that each device needs. The mesh may name
            devices that this machine lacks:
            `DeviceMesh((1, 8), ("batch", "model"), [f"tpu:{i}" for i in range(8)])`.
        device_memory: Bytes that one device has, such as 16e9. The plan then
            shows whether the memory is enough.
        train: As in `enable`: these weights count as trained, and in the file.
        bias: As in `enable`.
        name: As in `enable`.

    Returns:
        A `Plan` with `.trainable_parameters`, `.frozen_bytes`, `.seconds`,
        `.device` and `.sites`; print it.

    Raises:
        ValueError: If `enable` would raise an error.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> ksa.plan(model, ksa.LoRA(rank=2)).trainable_parameters
    28
    """
    check_devices(distribution, device_memory)
    service = SVDService(cache and isinstance(model, keras.layers.Layer), cache_dir, svd_device)
    service.check()
    if not isinstance(model, keras.layers.Layer):
        model = build_without_values(model)
    chosen = choose_methods(model, method, targets, exclude, layers, last, tied)
    check_shapes(chosen)
    chosen_sites = [site for site, _ in chosen]
    extra = select_weights(model, train, name, chosen_sites)
    extra += select_biases(model, bias, name, chosen_sites)
    jobs = [jobs_for(site, m.truncation, needs_svd(site, m)) for site, m in chosen]
    every = list(chain.from_iterable(jobs))
    kept = iter(service.kept(every))
    known = [list(islice(kept, len(own))) for own in jobs]
    arrays = own_arrays(chosen)
    sites = tuple(
        _plan_site(*pair, own, cached)
        for pair, own, cached in zip(chosen, arrays, known, strict=True)
    )
    written = sum(4 * prod(shape) for shape in shared_shapes(chosen, saved=True).values())
    count = service.workers(every)
    values = sum(prod(weight.shape) for _, _, weight in base_weights(model))
    extra = list({id(weight): weight for weight in extra}.values())
    trained = _trained(model, extra)
    device = _on_devices(model, chosen, arrays, trained, distribution, device_memory)
    others, stored = (sum(prod(weight.shape) for weight in each) for each in (trained, extra))
    shared, groups = _shared_bytes(model, chosen), tuple(tied_groups(chosen))
    return Plan(sites, values, shared, written, count, device, others, stored, groups)


def _trained(model: keras.layers.Layer, weights: list[keras.Variable]) -> list[keras.Variable]:
    """Return the weights that train, without the statistics that a file also holds."""
    trained = {id(w) for layer in all_layers(model) for w in trainable_by_birth(layer)}
    return [weight for weight in weights if id(weight) in trained]


def _on_devices(
    model: keras.layers.Layer,
    chosen: Chosen,
    own: list[dict[str, Array]],
    trained: list[keras.Variable],
    distribution: Any,
    memory: float | None,
) -> DeviceBytes | None:
    if distribution is None:
        return None
    weights = [weight for _, _, weight in base_weights(model)]
    arrays = [
        (
            array,
            _dtype(array, site.layer.compute_dtype),
            site.view,
            base_kernel_variable(site.layer),
        )
        for (site, _), declared in zip(chosen, own, strict=True)
        for array in declared.values()
    ]
    arrays += [
        (array._replace(trainable=False), array_dtype, site.view, base_kernel_variable(site.layer))
        for site, array, array_dtype in _there_already(model)
    ]
    found = bytes_per_device(distribution, weights, arrays, memory, trained)
    kept = find_shared_arrays(adapted_sites(model)).values()
    there = sum(_nbytes(v) for each in kept for one in each for v in one.arrays.values())
    return replace(found, frozen=found.frozen + there + _shared_bytes(model, chosen))


def _there_already(model: keras.layers.Layer) -> Iterator[tuple[Site, Array, str]]:
    """Yield the arrays of adapters that the model already has, except for shared arrays."""
    for site in adapted_sites(model):
        for adapter in adapters_of(site.layer).values():
            for name, variable in adapter.arrays.items():
                yield site, adapter.declared[name], str(variable.dtype)


def _nbytes(variable: keras.Variable) -> int:
    return _bytes(Array(tuple(variable.shape), dtype=str(variable.dtype)))


def _shared_bytes(model: keras.layers.Layer, chosen: Chosen) -> int:
    """Return the bytes of the shared arrays that the model does not have yet."""
    there = check_sharing(model, chosen)
    new = [(site, m) for site, m in chosen if m.shared_by and m.name not in there]
    shapes = shared_shapes(new).values()
    return sum(_bytes(Array(shape, dtype=shared_dtype(new))) for shape in shapes)


def _plan_site(site: Site, method: Method, own: dict[str, Array], kept: list[bool]) -> PlannedSite:
    shape, arrays = (site.view.m, site.view.n), own.values()
    seconds = [decomposition_seconds(*shape, method.truncation, known) for known in kept]
    frozen = [array for array in arrays if not array.trainable]
    form = site.form(method)
    is_unread = site.host.kernel_may_leave and not method.reads_kernel(form)
    return PlannedSite(
        site=site,
        method=method,
        form=form,
        trainable_parameters=sum(prod(a.shape) for a in arrays if a.trainable),
        frozen_bytes=sum(_bytes(a, site.layer.compute_dtype) for a in frozen),
        file_bytes=sum(4 * prod(a.shape) for a in arrays if a.in_file),
        seconds=sum(seconds) if method.needs_svd else 0.0,
        cached=all(kept),
        unread_bytes=prod(site.shape) * width(site.dtype) if is_unread else 0,
    )


def _dtype(array: Array, compute_dtype: str) -> str:
    return compute_dtype if array.dtype == "compute" else array.dtype


def _bytes(array: Array, compute_dtype: str = "float32") -> int:
    return prod(array.shape) * width(_dtype(array, compute_dtype))
