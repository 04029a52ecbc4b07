"""Fit adapters of other ranks and scales into the arrays of a pool."""

from __future__ import annotations

import difflib
from dataclasses import asdict

import numpy as np

from keras_svd_adapters.files.pool.offers import Offer, Offers
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.pool.slot_pool import Arrays, SlotPool


def fitted(pool: SlotPool, offers: Offers, name: str) -> dict[str, Arrays]:
    """Return the arrays that the pool's method has for an adapter, by kernel.

    Raises:
        ValueError: If the pool lacks a kernel of the adapter, or its method cannot compute it.
    """
    if not offers:
        raise ValueError(f"The adapter has no kernels. Received: name={name!r}")
    found: dict[str, Arrays] = {}
    for key, offer in offers.items():
        if key not in pool.sites:
            near = difflib.get_close_matches(key, pool.sites, n=1)
            raise ValueError(
                "The adapter changes a kernel that the pool does not have: make a pool with all "
                f"kernels of its adapters, by `targets`. Nearest: {near}. Received: {key!r} of "
                f"{name!r}"
            )
        ours, site = pool.adapter(key), pool.sites[key]
        arrays = _arrays(ours.method, ours.form, offer)
        if arrays is None:
            raise ValueError(
                f"An adapter of {offer.method} does not fit into a pool of {ours.method}: "
                f"{_reason(ours.method, offer)}. Received: {name!r}, on `{site.path}`"
            )
        found[key] = {k: np.asarray(v, _dtype(v)) for k, v in arrays.items()}
    return found


def _arrays(method: Method, form: str, offer: Offer) -> Arrays | None:
    if offer.method == method and offer.form in (None, form):
        return offer.arrays
    return None if offer.factors is None else method.of_product(*offer.factors)


def _dtype(array: np.ndarray) -> str:
    return "float32" if array.dtype.kind == "f" else str(array.dtype)


def _reason(ours: Method, offer: Offer) -> str:
    """Return why an adapter does not fit, and what would."""
    nothing = np.zeros((1, 0)), np.zeros((0, 1))
    makes_products = ours.of_product(*nothing) is not None
    if makes_products and offer.factors is not None:
        return f"its update has rank {offer.factors[0].shape[1]}, so the pool needs that rank"
    if type(ours) is type(offer.method):
        mine, theirs = asdict(ours), asdict(offer.method)
        differ = [f"{k}={theirs[k]!r}, not {mine[k]!r}" for k in mine if mine[k] != theirs[k]]
        return f"it has {', '.join(differ) or 'another form'}, and these must be equal"
    if makes_products:
        return (
            "it does not hold a product of two thin matrices; attach it to a model, make one by "
            "`to_lora`, and add that from the model"
        )
    return (
        "only pools of LoRA take in others, such as what `to_lora` makes; make one of `LoRA(rank)`"
    )
