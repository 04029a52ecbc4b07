"""What adapting a model would cost, before anything is touched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from math import prod
from typing import Any

import keras

from keras_svd_adapters.blueprint import Blueprint, draw
from keras_svd_adapters.device_bytes import (
    DeviceBytes,
    bytes_per_device,
    check_devices,
    width,
)
from keras_svd_adapters.enable import Chosen, check_shapes, choose_methods, jobs_for, needs_svd
from keras_svd_adapters.host import adapters_of, base_kernel
from keras_svd_adapters.methods.method import Array, Method
from keras_svd_adapters.pictures import plot_bars
from keras_svd_adapters.sharing import check_sharing, shared_dtype, shared_in, shared_shapes
from keras_svd_adapters.site import Site, adapted_sites
from keras_svd_adapters.svd_cost import decomposition_seconds
from keras_svd_adapters.svd_service import SVDService
from keras_svd_adapters.table import Shown, Table
from keras_svd_adapters.targets import Targets
from keras_svd_adapters.tree import alike, tree
from keras_svd_adapters.weights import own_weights


@dataclass(frozen=True)
class PlannedSite:
    """One kernel in a `Plan`; `seconds` of one core, and whether the cache holds it."""

    site: Site = field(repr=False)
    method: Method
    form: str
    trainable_parameters: int
    frozen_bytes: int
    file_bytes: int
    seconds: float
    cached: bool

    @property
    def path(self) -> str:
        """The names of the layers from the model to this one."""
        return self.site.path


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """What `enable` would do. Printing it shows a table.

    Args:
        sites: One `PlannedSite` per kernel.
        model_parameters: Number of values of the model without its adapters.
        shared_bytes: Bytes of frozen arrays that all kernels share.
        shared_file_bytes: Bytes of these that an adapter file holds.
        workers: How many kernels are decomposed at a time.
        device: What each device would hold, if a distribution was given.
    """

    sites: tuple[PlannedSite, ...]
    model_parameters: int
    shared_bytes: int = 0
    shared_file_bytes: int = 0
    workers: int = 1
    device: DeviceBytes | None = None

    @property
    def trainable_parameters(self) -> int:
        """Values that would train."""
        return sum(site.trainable_parameters for site in self.sites)

    @property
    def trainable_bytes(self) -> int:
        """Bytes of these in float32."""
        return 4 * self.trainable_parameters

    @property
    def file_bytes(self) -> int:
        """Bytes of the values in the adapter file; its few kB of text come on top."""
        return self.shared_file_bytes + sum(site.file_bytes for site in self.sites)

    @property
    def frozen_bytes(self) -> int:
        """Bytes of frozen arrays that would be added. A kernel whose spectrum forbids the
        one-sided form needs more, which only the decomposition can tell."""
        return self.shared_bytes + sum(site.frozen_bytes for site in self.sites)

    @property
    def seconds(self) -> float:
        """Estimated seconds until all kernels are decomposed on this machine."""
        seconds = [site.seconds for site in self.sites]
        return max(sum(seconds) / self.workers, max(seconds, default=0.0))

    def as_table(self) -> Table:
        groups: dict[tuple[str, str], list[PlannedSite]] = {}
        for site in self.sites:
            groups.setdefault((str(site.method), site.form), []).append(site)
        rows = [
            (
                method,
                form,
                str(len(sites)),
                f"{sum(s.trainable_parameters for s in sites):,}",
                f"{sum(s.frozen_bytes for s in sites) / 1e6:,.1f} MB",
                _decompositions(sites),
            )
            for (method, form), sites in groups.items()
        ]
        head = ("method", "form", "kernels", "trains", "frozen factors", "decompositions")
        shared = f"; {self.shared_bytes / 1e6:,.1f} MB shared by them all" * bool(self.shared_bytes)
        kB = f"{self.file_bytes / 1e3:,.{int(self.file_bytes < 1e4)}f}"
        wait = f"; about {self.seconds:,.1f} s to decompose" * bool(self.seconds)
        share = 100 * self.trainable_parameters / max(self.model_parameters, 1)
        notes = (
            f"{tree(planned.site for planned in self.sites)}\n"
            f"{self.trainable_parameters:,} values would train, {share:.3g} % of "
            f"{self.model_parameters:,}; file about {kB} kB{shared}{wait}"
            + f"\n{self.device}"
            * bool(self.device)
        )
        return Table(head, rows, notes)

    def plot(self) -> Any:
        """Draws what each kind of kernel would train and add; needs matplotlib.

        Returns:
            A matplotlib `Figure`.
        """
        groups = alike(site.path for site in self.sites)
        sites = [[self.sites[place] for place in places] for places in groups.values()]
        series: dict[str, list[float]] = {
            "values that would train": [
                sum(s.trainable_parameters for s in each) for each in sites
            ],
            "frozen factors, MB": [sum(s.frozen_bytes for s in each) / 1e6 for each in sites],
        }
        return plot_bars(list(groups), series)


def plan(
    model: keras.layers.Layer | Blueprint,
    method: Method | None = None,
    targets: Targets = None,
    exclude: Targets = None,
    cache: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    svd_device: str = "cpu",
    layers: Iterable[int] | None = None,
    last: int | None = None,
    tied: bool = False,
    distribution: Any = None,
    device_memory: float | None = None,
) -> Plan:
    """Tells what `enable` would cost, and touches nothing.

    Args:
        model: A built Keras model. Or what has no weights yet: a KerasHub
            preset, by its directory or name; a configuration, such as
            `{"class_name": "GemmaBackbone", "config": {...}}`. Of these only
            shapes are built, so that a laptop plans for 70 billion values.
        method: As in `enable`.
        targets: As in `enable`.
        exclude: As in `enable`.
        cache: As in `enable`: what is kept on disk need not be decomposed again.
        cache_dir: As in `enable`.
        svd_device: As in `enable`; the seconds are those of a CPU in any case.
        layers: As in `enable`.
        last: As in `enable`.
        tied: As in `enable`.
        distribution: A `keras.distribution` such as `ModelParallel`: the plan
            then has what each device would hold. Its mesh may be of devices
            that this machine lacks, by their names alone:
            `DeviceMesh((1, 8), ("batch", "model"), [f"tpu:{i}" for i in range(8)])`.
        device_memory: Bytes that one device has, such as 16e9: the plan then
            tells whether that is enough.

    Returns:
        A `Plan` with `.trainable_parameters`, `.frozen_bytes`, `.seconds`,
        `.device` and `.sites`; print it.

    Raises:
        ValueError: As `enable` would.

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
        model = draw(model)
    chosen = choose_methods(model, method, targets, exclude, layers, last, tied)
    check_shapes(chosen)
    jobs = [jobs_for(site, m.truncation, needs_svd(site, m)) for site, m in chosen]
    every = list(chain.from_iterable(jobs))
    kept = iter(service.kept(every))
    known = [list(islice(kept, len(own))) for own in jobs]
    sites = tuple(_plan_site(*pair, own) for pair, own in zip(chosen, known, strict=True))
    written = sum(4 * prod(shape) for shape in shared_shapes(chosen, saved=True).values())
    count = service.workers(every)
    values = sum(prod(weight.shape) for _, _, weight in own_weights(model))
    device = _on_devices(model, chosen, distribution, device_memory)
    return Plan(sites, values, _shared_bytes(model, chosen), written, count, device)


def _on_devices(
    model: keras.layers.Layer, chosen: Chosen, distribution: Any, memory: float | None
) -> DeviceBytes | None:
    if distribution is None:
        return None
    weights = [weight for _, _, weight in own_weights(model)]
    arrays = [
        (array, _dtype(array, site.layer.compute_dtype), site.view, base_kernel(site.layer))
        for site, method in chosen
        for array in site.arrays(method).values()
        if not array.shared
    ]
    arrays += [
        (array._replace(trainable=False), array_dtype, site.view, base_kernel(site.layer))
        for site, array, array_dtype in _there_already(model)
    ]
    found = bytes_per_device(distribution, weights, arrays, memory)
    kept = shared_in(adapted_sites(model)).values()
    there = sum(_nbytes(v) for each in kept for one in each for v in one.arrays.values())
    return replace(found, frozen=found.frozen + there + _shared_bytes(model, chosen))


def _there_already(model: keras.layers.Layer) -> Iterator[tuple[Site, Array, str]]:
    """The arrays of adapters that the model has, but for shared ones."""
    for site in adapted_sites(model):
        for adapter in adapters_of(site.layer).values():
            for name, variable in adapter.arrays.items():
                yield site, adapter.declared[name], str(variable.dtype)


def _nbytes(variable: keras.Variable) -> int:
    return _bytes(Array(tuple(variable.shape), dtype=str(variable.dtype)))


def _shared_bytes(model: keras.layers.Layer, chosen: Chosen) -> int:
    """Bytes of the shared arrays that the model does not have yet."""
    there = check_sharing(model, chosen)
    new = [(site, m) for site, m in chosen if m.shared_by and m.name not in there]
    shapes = shared_shapes(new).values()
    return sum(_bytes(Array(shape, dtype=shared_dtype(new))) for shape in shapes)


def _plan_site(site: Site, method: Method, kept: list[bool]) -> PlannedSite:
    shape = (site.view.m, site.view.n)
    form = site.form(method)
    arrays = site.arrays(method, form).values()
    seconds = [decomposition_seconds(*shape, method.truncation, known) for known in kept]
    frozen = [a for a in arrays if not a.trainable and not a.shared]
    return PlannedSite(
        site=site,
        method=method,
        form=form,
        trainable_parameters=sum(prod(a.shape) for a in arrays if a.trainable),
        frozen_bytes=sum(_bytes(a, site.layer.compute_dtype) for a in frozen),
        file_bytes=sum(4 * prod(a.shape) for a in arrays if a.in_file and not a.shared),
        seconds=sum(seconds) if method.needs_svd else 0.0,
        cached=all(kept),
    )


def _decompositions(sites: list[PlannedSite]) -> str:
    seconds, kept = sum(site.seconds for site in sites), sum(site.cached for site in sites)
    return f"{seconds:,.1f} s" + f", {kept} in the cache" * bool(kept)


def _dtype(array: Array, compute_dtype: str) -> str:
    return compute_dtype if array.dtype == "compute" else array.dtype


def _bytes(array: Array, compute_dtype: str = "float32") -> int:
    return prod(array.shape) * width(_dtype(array, compute_dtype))
