"""Attach adapters of known values and measure their approximation error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_svd_adapters.adapters.attachment import attach
from keras_svd_adapters.adapters.own_values import owners_of, variable_of
from keras_svd_adapters.kernels.low_rank_factors import Factors, padded, relative_error
from keras_svd_adapters.merging.approximation import ApproximateKernel, Approximation
from keras_svd_adapters.merging.kernel_updates import kernel_updates
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import check_methods, check_name
from keras_svd_adapters.models.attaching import detach_on_error
from keras_svd_adapters.models.refresh import train_and_sync
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.runtime.host_values import to_host_exact

TargetUpdate = Callable[[], list[np.ndarray]]


class NewAdapter(NamedTuple):
    """An adapter to attach.

    Args:
        site: The kernel.
        method: The method of the adapter.
        form: The formulation of the method.
        values: Function that returns the arrays; called on attachment.
        target_update: Function that returns the target update of each matrix; called
            for the approximation error. `None` if the adapter's own update is
            the target.
    """

    site: Site
    method: Method
    form: str
    values: Callable[[], dict[str, np.ndarray]]
    target_update: TargetUpdate | None


def lora_of(site: Site, factors: Sequence[Factors], wanted: TargetUpdate) -> NewAdapter:
    """Return a LoRA of these factors, one pair for each matrix of a kernel."""
    require_kernel(site)
    values = arrays_of_lora(site, factors)
    method = LoRA(rank=values["lora_a"].shape[-1])
    return NewAdapter(site, method, site.form(method), lambda: values, wanted)


def arrays_of_lora(site: Site, factors: Sequence[Factors]) -> dict[str, np.ndarray]:
    """Return the arrays of a LoRA of these factors, one pair for each matrix of a kernel."""
    return site.view.joined([{"lora_a": A, "lora_b": B} for A, B in padded(factors)])


def require_kernel(site: Site) -> None:
    """Raise `ValueError` if a site is a bias or a vector of a normalization."""
    if site.is_vector:
        raise ValueError(
            "The new adapter would change kernels, and this one changes a bias or a normalization: "
            f"keep it, or `merge` it. Received: `{site.path}`"
        )


def check_name_is_free(model: keras.layers.Layer, into: str) -> None:
    """Raise if the name is invalid or if a kernel already has an adapter of this name."""
    check_name(into)
    for site in adapted_sites(model, into):
        raise ValueError(
            f"`{site.path}` has an adapter of this name. Give the new one another `into=`, or "
            f"`delete_adapter(model, {into!r})` first. Received: into={into!r}"
        )


def other_weights(model: keras.layers.Layer, name: str) -> list[tuple[keras.Variable, np.ndarray]]:
    """Return the weights that train with an adapter besides its own arrays, with their values."""
    return [
        (weight, to_host_exact(variable_of(weight, name)))
        for _, _, weight in base_weights(model)
        if name in owners_of(weight)
    ]


def attach_and_report(
    model: keras.layers.Layer,
    new: Sequence[NewAdapter],
    into: str,
    description: str,
    extra: Sequence[tuple[keras.Variable, np.ndarray]] = (),
) -> Approximation:
    """Attach adapters and report their approximation error from the target in `description`.

    Args:
        model: The model.
        new: The adapters.
        into: Name of the adapters.
        description: What the error is measured from.
        extra: Other weights that train with these adapters, each with its values.
    """
    chosen = [(each.site, each.method) for each in new]
    check_methods(chosen, into)
    with detach_on_error(model, chosen, into):
        for each in new:
            adapter = each.site.new_adapter(each.method, each.form, into, each.values())
            attach(each.site.layer, into, adapter)
        train_and_sync(model, into, [w for w, _ in extra], [value for _, value in extra])
        return Approximation(
            into, tuple(k for each in new for k in _measured(each, into)), description
        )


def _measured(new: NewAdapter, into: str) -> Iterator[ApproximateKernel]:
    """Yield the approximation error of an adapter, for each matrix of its kernel."""
    found = kernel_updates(new.site, into)
    wanted = found if new.target_update is None else new.target_update()
    for (path, _), ours, theirs in zip(new.site.matrices(), found, wanted, strict=True):
        yield ApproximateKernel(path, str(new.method), relative_error(ours, theirs))
