"""From an adapter of one method to the same function in another."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapter import Adapter, joined
from keras_svd_adapters.enable import (
    Chosen,
    attach_all,
    check_methods,
    check_name,
    undone_on_failure,
)
from keras_svd_adapters.host import adapters_of
from keras_svd_adapters.live_models import searching_once
from keras_svd_adapters.methods.lora import LoRA
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.sharing import Shared
from keras_svd_adapters.site import Site
from keras_svd_adapters.status import Status, status
from keras_svd_adapters.switching import finish, only_adapter, require_adapter, require_values
from keras_svd_adapters.weights import own_weights, trained_with

Factors = tuple[np.ndarray, np.ndarray]


@searching_once()
def to_lora(model: keras.layers.Layer, name: str | None = None, into: str = "lora") -> Status:
    """Adds a LoRA adapter that computes what another adapter does, exactly.

    PiSSA and MiLoRA of rank r become a LoRA of rank 2 r on the kernel as it
    is, LoRA-XS and VeRA one of rank r. The new adapter becomes the active one,
    and what `train` named trains and is saved with it from now on;
    `delete_adapter` takes the old one off.

    Args:
        model: An adapted model.
        name: Name of the adapter to convert, if there are several.
        into: Name of the new one.

    Returns:
        A `Status` of the model.

    Raises:
        ValueError: If there is no such adapter, its method has no exact LoRA,
            or the new name is taken. The model is left as it was.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.PiSSA(rank=2))
    >>> _ = ksa.to_lora(model)
    >>> ksa.delete_adapter(model, "default")
    """
    check_name(into)
    name = name or only_adapter(model)
    sites = require_adapter(model, name)
    require_values(model, f"to_lora of {name!r}")
    factors = {site.key: exact_factors(site, name) for site in sites}
    chosen: Chosen = [(site, LoRA(rank=factors[site.key][0].shape[-1])) for site in sites]
    check_methods(chosen, into)

    extra = [weight for _, _, weight in own_weights(model) if trained_with(weight) == name]

    def start(site: Site, method: Method, shared: Shared, *_: Any) -> Adapter:
        a, b = factors[site.key]
        return site.new_adapter(method, site.form(method), into, {"lora_a": a, "lora_b": b})

    with undone_on_failure(model, chosen, into):
        attach_all(chosen, into, 0, {}, start)
        finish(model, into, extra)
    return status(model)


def exact_factors(site: Site, name: str) -> Factors:
    """`A` and `B` whose product is what an adapter adds to its kernel."""
    adapter = adapters_of(site.layer)[name]
    found = [adapter.method.low_rank(values) for values in adapter.numpy_values()]
    factors = [shrink(*pair) for pair in found if pair is not None]
    if not factors:
        exact = [m.__name__ for m in Method.registry.values() if m.low_rank is not Method.low_rank]
        raise ValueError(
            f"{adapter.method} changes the kernel by more than a low rank, so no LoRA is exactly "
            f"it; {', '.join(exact)} have one. `merge` it instead. "
            f"Received: name={name!r}, on `{site.path}`"
        )
    both = joined([{"A": A, "B": B} for A, B in factors], site.view)
    return both["A"], both["B"]


def shrink(A: np.ndarray, B: np.ndarray) -> Factors:
    """The same product with no more columns than its rank can have."""
    (m, r), n = A.shape, B.shape[1]
    if r <= min(m, n):
        return A, B
    return (A @ B, np.eye(n)) if n <= m else (np.eye(m), A @ B)
