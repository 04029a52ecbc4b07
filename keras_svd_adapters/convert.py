"""From an adapter of one method to the same function, or one near it, in a LoRA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.approximation import ApproximateKernel, Approximation
from keras_svd_adapters.changes import changes_of, exact_factors
from keras_svd_adapters.enable import (
    Chosen,
    check_methods,
    check_name,
    undone_on_failure,
)
from keras_svd_adapters.host import adapters_of, attach
from keras_svd_adapters.live_models import searching_once
from keras_svd_adapters.low_rank import (
    Factors,
    check_size,
    padded,
    relative_error,
    truncate,
)
from keras_svd_adapters.methods.lora import LoRA
from keras_svd_adapters.site import Site
from keras_svd_adapters.switching import finish, only_adapter, require_adapter, require_values
from keras_svd_adapters.weights import own_weights, trained_with


@searching_once()
def to_lora(
    model: keras.layers.Layer,
    name: str | None = None,
    into: str = "lora",
    rank: int | None = None,
    energy: float | None = None,
) -> Approximation:
    """Adds a LoRA adapter that computes what another adapter does, exactly or nearly.

    PiSSA and MiLoRA of rank r become a LoRA of rank 2 r on the kernel as it
    is, LoRA-XS and VeRA one of rank r, exactly. Any method becomes the nearest
    LoRA of a given rank, or of the rank that holds a given energy. The new
    adapter becomes the active one, and what `train` named trains and is saved
    with it from now on; `delete_adapter` takes the old one off.

    Args:
        model: An adapted model.
        name: Name of the adapter to convert, if there are several.
        into: Name of the new one.
        rank: Its rank, if it need not be exact.
        energy: Share of the sum of squares of the change of each kernel that
            it must hold, such as 0.99, instead of `rank`.

    Returns:
        An `Approximation`, which tells the error for each kernel; print it.

    Raises:
        ValueError: If there is no such adapter, its method has no exact LoRA
            and no `rank` or `energy` is given, or the new name is taken. The
            model is left as it was.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.PiSSA(rank=2))
    >>> ksa.to_lora(model).error < 1e-5
    True
    >>> ksa.delete_adapter(model, "default")
    """
    check_name(into)
    check_size(rank, energy)
    name = name or only_adapter(model)
    sites = require_adapter(model, name)
    require_values(model, f"to_lora of {name!r}")
    exact = rank is None and energy is None
    factors = {}
    changes = {site.key: changes_of(site, name) for site in sites}
    for site in sites:
        if exact:
            factors[site.key] = exact_factors(site, name)
        else:
            factors[site.key] = [truncate(each, rank, energy) for each in changes[site.key]]
    extra = [weight for _, _, weight in own_weights(model) if trained_with(weight) == name]
    return add_lora(model, sites, factors, changes, into, extra)


def add_lora(
    model: keras.layers.Layer,
    sites: list[Site],
    factors: dict[str, list[Factors]],
    changes: dict[str, list[np.ndarray]],
    into: str,
    extra: Sequence[keras.Variable] = (),
) -> Approximation:
    """Attaches LoRA adapters of these factors, and measures them against the changes."""
    values: dict[str, dict[str, Any]] = {}
    chosen: Chosen = []
    for site in sites:
        pairs = padded(factors[site.key])
        chosen.append((site, LoRA(rank=pairs[0][0].shape[1])))
        values[site.key] = site.view.joined([{"lora_a": A, "lora_b": B} for A, B in pairs])
    forms = {site.key: site.form(method) for site, method in chosen}
    return attach_and_measure(model, chosen, forms, values, changes, into, extra)


def attach_and_measure(
    model: keras.layers.Layer,
    chosen: Chosen,
    forms: dict[str, str],
    values: dict[str, dict[str, Any]],
    changes: dict[str, list[np.ndarray]] | None,
    into: str,
    extra: Sequence[keras.Variable] = (),
) -> Approximation:
    """Attaches adapters of these values, and measures them against changes of their kernels."""
    check_methods(chosen, into)
    with undone_on_failure(model, chosen, into):
        for site, method in chosen:
            adapter = site.new_adapter(method, forms[site.key], into, values[site.key])
            attach(site.layer, into, adapter)
        finish(model, into, list(extra))
        sites = (site for site, _ in chosen)
        return Approximation(into, tuple(k for s in sites for k in _measured(s, changes, into)))


def _measured(
    site: Site, changes: dict[str, list[np.ndarray]] | None, name: str
) -> Iterator[ApproximateKernel]:
    """How near an adapter is to the change of each matrix of its kernel; without, to its own."""
    method = str(adapters_of(site.layer)[name].method)
    found = changes_of(site, name)
    wanted = found if changes is None else changes[site.key]
    for (path, _), ours, theirs in zip(site.matrices(), found, wanted, strict=True):
        yield ApproximateKernel(path, method, relative_error(ours, theirs))
