"""What adapting a model would cost, before anything is touched."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

import keras
import numpy as np

from keras_svd_adapters.blueprint import Blueprint, draw
from keras_svd_adapters.enable import Chosen, check_shapes, choose_methods
from keras_svd_adapters.methods.method import Array, Method, Truncation
from keras_svd_adapters.sharing import check_sharing, shared_dtype, shared_shapes
from keras_svd_adapters.site import Site
from keras_svd_adapters.svd import KRYLOV_STEPS, krylov_pays
from keras_svd_adapters.svd_service import cores, threads_of_blas
from keras_svd_adapters.table import table
from keras_svd_adapters.targets import Targets
from keras_svd_adapters.tree import tree


@dataclass(frozen=True)
class PlannedSite:
    """One kernel in a `Plan`."""

    site: Site = field(repr=False)
    method: Method
    form: str
    trainable_parameters: int
    frozen_bytes: int
    file_bytes: int
    seconds: float

    @property
    def path(self) -> str:
        """The names of the layers from the model to this one."""
        return self.site.path


@dataclass(frozen=True)
class Plan:
    """What `enable` would do. Printing it shows a table.

    Args:
        sites: One `PlannedSite` per kernel.
        model_parameters: Number of values of the model.
        shared_bytes: Bytes of frozen arrays that all kernels share.
        shared_file_bytes: Bytes of these that an adapter file holds.
    """

    sites: tuple[PlannedSite, ...]
    model_parameters: int
    shared_bytes: int = 0
    shared_file_bytes: int = 0

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
        """Estimated seconds for the decompositions on this machine."""
        return sum(site.seconds for site in self.sites)

    def __str__(self) -> str:
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
                f"{sum(s.seconds for s in sites):,.1f} s",
            )
            for (method, form), sites in groups.items()
        ]
        head = ("method", "form", "kernels", "trains", "frozen factors", "decompositions")
        shared = f"; {self.shared_bytes / 1e6:,.1f} MB shared by them all" * bool(self.shared_bytes)
        share = 100 * self.trainable_parameters / max(self.model_parameters, 1)
        return (
            f"{table(head, rows)}\n{tree(planned.site for planned in self.sites)}\n"
            f"{self.trainable_parameters:,} values would train, {share:.3g} % of "
            f"{self.model_parameters:,}; file about {self.file_bytes / 1e3:,.0f} kB{shared}"
        )

    __repr__ = __str__


def plan(
    model: keras.layers.Layer | Blueprint,
    method: Method | None = None,
    targets: Targets = None,
    exclude: Targets = None,
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

    Returns:
        A `Plan` with `.trainable_parameters`, `.frozen_bytes`, `.seconds` and
        `.sites`; print it.

    Raises:
        ValueError: As `enable` would.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> ksa.plan(model, ksa.LoRA(rank=2)).trainable_parameters
    28
    """
    if not isinstance(model, keras.layers.Layer):
        model = draw(model)
    chosen = choose_methods(model, method, targets, exclude)
    check_shapes(chosen)
    sites = tuple(_plan_site(site, chosen_method) for site, chosen_method in chosen)
    written = sum(4 * prod(shape) for shape in shared_shapes(chosen, saved=True).values())
    return Plan(sites, model.count_params(), _shared_bytes(model, chosen), written)


def _shared_bytes(model: keras.layers.Layer, chosen: Chosen) -> int:
    """Bytes of the shared arrays that the model does not have yet."""
    there = check_sharing(model, chosen)
    new = [(site, m) for site, m in chosen if m.shared_by and m.name not in there]
    shapes = shared_shapes(new).values()
    return sum(_bytes(Array(shape, dtype=shared_dtype(new))) for shape in shapes)


def _plan_site(site: Site, method: Method) -> PlannedSite:
    m, n = site.view.m, site.view.n
    form = site.form(method)
    arrays = method.arrays(m, n, form).values()
    frozen = [a for a in arrays if not a.trainable and not a.shared]
    return PlannedSite(
        site=site,
        method=method,
        form=form,
        trainable_parameters=method.trainable_count(m, n),
        frozen_bytes=sum(_bytes(a, site.layer.compute_dtype) for a in frozen),
        file_bytes=sum(4 * prod(a.shape) for a in arrays if a.in_file and not a.shared),
        seconds=_svd_seconds(m, n, method.truncation) if method.needs_svd else 0.0,
    )


def _bytes(array: Array, compute_dtype: str = "float32") -> int:
    dtype = compute_dtype if array.dtype == "compute" else array.dtype
    size = 2 if dtype in ("bfloat16", "float16") else np.dtype(dtype).itemsize
    return int(np.prod(array.shape)) * size


def _svd_seconds(m: int, n: int, part: Truncation | None) -> float:
    """Gram matrix and second factor by matmul, and an eigenproblem of about 9 k^3."""
    k, length = min(m, n), max(m, n)
    matmul_rate, eigh_rate = _host_speed()
    if part is not None and krylov_pays(m, n, part):
        width = part.rank + part.oversampling
        products = 4 * m * n * width * (2 * KRYLOV_STEPS + 2)
        return products / matmul_rate + 9 * (width * (KRYLOV_STEPS + 1)) ** 2 * length / eigh_rate
    return 4 * k * k * length / matmul_rate + 9 * k**3 / eigh_rate


@lru_cache(maxsize=1)
def _host_speed() -> tuple[float, float]:
    """Float64 operations per second of this host, in a matmul and in `eigh`.

    As `enable` computes: a kernel for each core, each with one thread. Two threads of one `eigh`
    wait for each other, on a busy machine a hundred times as long as they compute.
    """
    size = 384
    a = np.random.default_rng(0).normal(size=(size, size))
    gram = a @ a.T
    with threads_of_blas(1):
        matmul, eigh = (
            min(_seconds(find) for _ in range(3))
            for find in (lambda: a @ a, lambda: np.linalg.eigh(gram))
        )
    return cores() * 2 * size**3 / matmul, cores() * 9 * size**3 / eigh


def _seconds(find: Callable[[], object]) -> float:
    start = time.perf_counter()
    find()
    return time.perf_counter() - start
