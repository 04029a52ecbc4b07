"""Carry an adapter to another base model of the same architecture, without training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import keras
import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.refusals import refuse_without_delta
from keras_svd_adapters.kernels.low_rank_factors import relative_error
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.kernel_updates import kernel_updates
from keras_svd_adapters.merging.new_adapters import (
    NewAdapter,
    attach_and_report,
    check_name_is_free,
)
from keras_svd_adapters.methods.spectral.lora_x import LoRAX
from keras_svd_adapters.models.assignment import check_methods
from keras_svd_adapters.models.decompositions import Found, decompositions, jobs_for
from keras_svd_adapters.models.named_adapters import only_adapter, require_adapter, require_values
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.runtime.warnings import warn

Kernel = tuple[Site, LoRAX, Site]  # of the model, its new method, and of the source


@changes_model
def transfer(
    model: keras.layers.Layer,
    source: keras.layers.Layer,
    name: str | None = None,
    into: str = "transferred",
    rank: int | None = None,
    tolerance: float = 0.5,
    verbose: int | str = "auto",
) -> Approximation:
    """Add a LoRA-X adapter that does to a model what an adapter does to another base.

    The update of each kernel is projected onto the largest singular vectors of
    the same kernel of this model: `D = U_r^T update V_r`. This works as far as the
    two bases have similar singular vectors, as two versions of a model do. The
    error is the part of the update outside of these vectors.

    Args:
        model: A built model, the new base. It keeps its weights; the new adapter
            becomes the active one.
        source: An adapted model with the same kernels; it is only read.
        name: Name of the adapter of `source`, if there are several.
        into: Name of the new adapter.
        rank: Rank of the new adapter, as `LoRAX(rank)`. A `LoRAX` adapter is
            transferred with its own rank by default.
        tolerance: Kernels with a larger relative error get no adapter. A warning
            names them.
        verbose: As in `enable`.

    Returns:
        An `Approximation` with the relative error for each kernel; print it.

    Raises:
        ValueError: If the model lacks an adapted kernel, no kernel is within the
            tolerance, or no rank is given. The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> source = keras.models.clone_model(model)
    >>> source.set_weights(model.get_weights())
    >>> _ = ksa.enable(source, ksa.methods.LoRAX(rank=4))
    >>> _ = source.trainable_weights[0].assign_add(keras.ops.eye(4))
    >>> ksa.transfer(model, source).error < 1e-5
    True

    Reference:
        - [Farhadzadeh et al., 2025](https://arxiv.org/abs/2501.16559)
    """
    check_name_is_free(model, into)
    name = name or only_adapter(source)
    kernels = _matched(model, require_adapter(source, name), name, rank)
    require_values(source, f"transfer of {name!r}")
    check_methods([(site, method) for site, method, _ in kernels], into)
    new, left_out = [], []
    for kernel, found in _with_decompositions(kernels, verbose):
        adapter, error = _projected(*kernel, name, found)
        if error <= tolerance:
            new.append(adapter)
        else:
            left_out.append(f"`{kernel[0].path}` ({error:.2f})")
    shown = ", ".join(left_out[:3]) + ", ..." * (len(left_out) > 3)
    received = f"Received: tolerance={tolerance!r}"
    if not new:
        raise ValueError(
            f"No kernel's update lies between the largest singular vectors of this model: {shown}. "
            f"Give a larger `rank`, or train a new adapter. {received}"
        )
    if left_out:
        warn(
            f"{len(left_out)} kernels get no adapter, because more of their update would be lost: "
            f"{shown}. Give a larger `rank` or `tolerance` to include them. {received}"
        )
    return attach_and_report(model, new, into, f"that of {name!r}")


def _matched(
    model: keras.layers.Layer, others: list[Site], name: str, rank: int | None
) -> list[Kernel]:
    """Return each adapted kernel of the source, after the same kernel of the model."""
    by_key = {site.key: site for site in find_sites(model)}
    kernels = []
    for other in others:
        if (source := adapters_of(other.layer)[name].method).depends_on_input:
            refuse_without_delta(source)
        site = by_key.get(other.key)
        if site is None or site.view != other.view:
            raise ValueError(
                "The models must have the same kernels: if one is a task and the other a backbone, "
                f"pass the task's `backbone`. Received: `{other.path}` {other.shape} is adapted in "
                f"the source, and the model has {'no such kernel' if site is None else site.shape}"
            )
        kernels.append((site, _method(other, name, rank), other))
    return kernels


def _method(other: Site, name: str, rank: int | None) -> LoRAX:
    method = adapters_of(other.layer)[name].method
    if isinstance(method, LoRAX):
        return LoRAX(rank or method.rank)
    if rank is None:
        raise ValueError(
            "Give the rank of the new adapter, such as `rank=32`. "
            f"Received: rank=None, and {method} on `{other.path}`"
        )
    return LoRAX(rank)


def _with_decompositions(
    kernels: list[Kernel], verbose: int | str
) -> Iterator[tuple[Kernel, Found]]:
    """Yield each kernel with the decompositions of the model's matrices."""
    sites = [site for site, _, _ in kernels]
    every = decompositions(sites, [jobs_for(site) for site in sites], SVDService(), verbose)
    with closing(every):
        yield from zip(kernels, every, strict=True)


def _projected(
    site: Site, method: LoRAX, other: Site, name: str, found: Found
) -> tuple[NewAdapter, float]:
    """Return the adapter of a kernel, and the relative error of its update."""
    form = site.form(method)
    updates, values, errors = kernel_updates(other, name), [], []
    for (K, svd), update in zip(found, updates, strict=True):
        start = method.start(K, form, np.random.default_rng(), svd)
        U = np.asarray(start["U"], "float64")
        Vt = np.asarray(start["Vt"], "float64")
        D = U.T @ update @ Vt.T
        values.append(start | {"latent": D.astype("float32")})
        errors.append(relative_error(U @ D @ Vt, update))
    joined = site.view.joined(values)
    return NewAdapter(site, method, form, lambda: joined, lambda: updates), max(errors)
