"""Combine several adapters of a model into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.combining.combine_request import CombineRequest
from keras_svd_adapters.merging.combining.kernel_combination import KernelCombination
from keras_svd_adapters.merging.new_adapters import (
    NewAdapter,
    attach_and_report,
    check_name_is_free,
)
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.changes import changes_model


@changes_model
def combine(
    model: keras.layers.Layer,
    weights: Mapping[str, float],
    into: str,
    how: str = "exact",
    rank: int | None = None,
    energy: float | None = None,
    density: float | None = None,
    seed: int | None = None,
    observed: Mapping[str, Mapping[str, Any]] | None = None,
) -> Approximation:
    """Add an adapter that combines several others, each with a weight.

    Its kernel update is the weighted sum of the others' updates; a weight may be
    negative. Other weights of the model that trained with an adapter (`train=`)
    are not combined: the new adapter computes with the values that they have now.

    Args:
        model: A model with adapters.
        weights: The weight of each adapter, by name, such as
            `{"a": 0.7, "b": 0.3}`.
        into: Name of the new adapter, which becomes the active one.
        how: `"exact"` uses `"linear"` on each kernel that allows it, else
            `"cat"`. `"linear"` sums exactly between equal singular vectors: SVF,
            SVFT of any patterns (of equal patterns in a stack), LoRA-XS of one
            rank and scale, TokenRows. `"cat"` sums LoRA, PiSSA, MiLoRA, LoRA-XS,
            VeRA and TokenRows exactly, as a LoRA whose rank is the sum of the
            ranks. `"svd"` sums any methods, as the nearest LoRA. `"ties"` and
            `"dare"` keep a part of each update before they sum. They blend the
            trained values if `"linear"` applies. Otherwise they blend the kernel
            updates and return the nearest LoRA. `"regmean"` and `"fisher"` make a mean by
            what data says of each adapter (`observed`), as the nearest LoRA: RegMean keeps
            the outputs of each adapter on its own inputs, Fisher merging the entries that
            matter for its loss. `"factors"` sums A and B of LoRAs of one rank, as LoRAHub
            does: their products mix.
        rank: Rank of the nearest LoRA, of every `how` that makes one. `None`
            without `energy` selects the largest rank of the adapters.
        energy: Share of the sum of squares that the nearest LoRA must hold;
            instead of `rank`.
        density: Share of the entries that `"ties"` and `"dare"` keep; 0.2 if
            `None`.
        seed: Random seed of the entries that `"dare"` keeps; 0 if `None`.
        observed: For each adapter, what `observe` found on its data while it was
            active: the `"inputs"` for `"regmean"`, the `"squared_gradients"` for `"fisher"`.

    Returns:
        An `Approximation` with the error of each kernel's update, relative to
        the weighted sum; print it. For `"ties"`, `"dare"`, `"factors"`, `"regmean"` and
        `"fisher"`, it has the error of the nearest LoRA relative to the blend, which is not
        the weighted sum.
        The error is 0 if trained values are blended.

    Raises:
        ValueError: If an adapter is unknown, the name is taken, or values are
            not finite. Also if an argument has no effect with this `how`, the
            methods do not allow this `how`, or their singular vectors differ.
            The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> for name in ("a", "b"):
    ...     _ = ksa.enable(model, ksa.SVF(), name=name)
    >>> ksa.combine(model, {"a": 0.7, "b": 0.3}, into="both").error
    0.0
    """
    recipe = CombineRequest(weights, how, rank, energy, density, seed, observed)
    new = new_adapters(model, recipe, into)
    return attach_and_report(model, new, into, recipe.description)


def new_adapters(model: keras.layers.Layer, recipe: CombineRequest, into: str) -> list[NewAdapter]:
    """Return the adapters that `combine` attaches; raise an error if they cannot be combined."""
    for name in recipe.weights:
        require_adapter(model, name)
    check_name_is_free(model, into)
    require_values(model, f"combine({dict(recipe.weights)})")
    sites = [s for s in adapted_sites(model) if recipe.weights.keys() & adapters_of(s.layer).keys()]
    new = [KernelCombination(site, place, recipe).new_adapter() for place, site in enumerate(sites)]
    recipe.check_used(not all(each.method.linear for each in new))
    return new
