"""Several adapters of a model made into one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isfinite
from numbers import Real

import keras
import numpy as np

from keras_svd_adapters.adapter import Adapter
from keras_svd_adapters.approximation import Approximation
from keras_svd_adapters.arithmetic import Blend, dare, ties, weighted_sum
from keras_svd_adapters.changes import changes_of, exact_factors
from keras_svd_adapters.convert import add_lora, attach_and_measure
from keras_svd_adapters.coordinates import Coordinates, coordinates_of
from keras_svd_adapters.enable import check_name
from keras_svd_adapters.host import adapters_of
from keras_svd_adapters.live_models import searching_once
from keras_svd_adapters.low_rank import Factors, check_size, concatenate, truncate
from keras_svd_adapters.site import Site, adapted_sites
from keras_svd_adapters.switching import require_adapter, require_values

HOWS = ("exact", "linear", "cat", "svd", "ties", "dare")


@searching_once()
def combine(
    model: keras.layers.Layer,
    weights: Mapping[str, float],
    into: str,
    how: str = "exact",
    rank: int | None = None,
    energy: float | None = None,
    density: float = 0.2,
    seed: int = 0,
) -> Approximation:
    """Adds an adapter that does what several others do together, each with a weight.

    The change that it makes to a kernel is the weighted sum of theirs; a weight
    may be negative. Weights of the model that trained besides (`train=`) change
    in place and are not combined.

    Args:
        model: A model with adapters.
        weights: The weight of each adapter, by name, such as
            `{"a": 0.7, "b": 0.3}`.
        into: Name of the new adapter, which becomes the active one.
        how: `"exact"` for `"linear"` where that can be, else `"cat"`.
            `"linear"` for exact sums between the same singular vectors: SVF,
            SVFT of any patterns, LoRA-XS, TokenRows. `"cat"` for exact sums of
            LoRA, PiSSA, MiLoRA, LoRA-XS and VeRA, as a LoRA whose rank is the
            sum of the ranks. `"svd"` for any methods, as the nearest LoRA.
            `"ties"` and `"dare"` keep a part of each change before they sum,
            where `"linear"` would do of the trained values, else of the changes
            of the kernels, as the nearest LoRA.
        rank: Rank of a nearest LoRA.
        energy: Share of the sum of squares that it must hold, instead of `rank`.
        density: Share of the entries that `"ties"` and `"dare"` keep.
        seed: Of the entries that `"dare"` keeps.

    Returns:
        An `Approximation`, which tells how far each kernel's change is from the
        sum that was asked for; print it.

    Raises:
        ValueError: If an adapter is unknown, the methods do not suit `how`,
            their singular vectors differ, or values are not finite. The model
            is left as it was.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> for name in ("a", "b"):
    ...     _ = ksa.enable(model, ksa.SVF(), name=name)
    >>> ksa.combine(model, {"a": 0.7, "b": 0.3}, into="both").error
    0.0
    """
    check_name(into)
    check_size(rank, energy)
    _check(weights, how, density)
    for name in weights:
        require_adapter(model, name)
    require_values(model, f"combine({dict(weights)})")
    sites = [s for s in adapted_sites(model) if weights.keys() & adapters_of(s.layer).keys()]
    blend = _blend(how, density, seed)
    coordinates = _coordinates(sites, weights, how)
    if coordinates is not None:
        values = {key: each.blended(blend, weights) for key, each in coordinates.items()}
        chosen = [(site, coordinates[site.key].method) for site in sites]
        exact = how in ("exact", "linear")
        sums = {s.key: _sums(s, weights, blend) for s in sites} if exact else None
        forms = {key: each.form for key, each in coordinates.items()}
        return attach_and_measure(model, chosen, forms, values, sums, into)
    sums = {site.key: _sums(site, weights, blend) for site in sites}
    if how in ("exact", "cat"):
        factors = {site.key: _concatenated(site, weights) for site in sites}
    else:
        factors = {
            site.key: [
                truncate(each, rank or _rank(site, weights, energy), energy)
                for each in sums[site.key]
            ]
            for site in sites
        }
    return add_lora(model, sites, factors, sums, into)


def _check(weights: Mapping[str, float], how: str, density: float) -> None:
    numbers = isinstance(weights, Mapping) and all(
        isinstance(w, Real) and isfinite(w) for w in weights.values()
    )
    if not numbers or not weights:
        raise ValueError(
            "`weights` gives each adapter a finite weight, such as `{'a': 0.7, 'b': 0.3}`. "
            f"Received: weights={weights!r}"
        )
    if how not in HOWS:
        raise ValueError(f"`how` must be one of {HOWS}. Received: how={how!r}")
    if not 0 < density <= 1:
        raise ValueError(f"`density` is a share between 0 and 1. Received: density={density!r}")


def _blend(how: str, density: float, seed: int) -> Blend:
    if how == "ties":
        return partial(ties, density=density)
    if how == "dare":
        return partial(dare, density=density, rng=np.random.default_rng(seed))
    return weighted_sum


def _coordinates(
    sites: list[Site], weights: Mapping[str, float], how: str
) -> dict[str, Coordinates] | None:
    """Those of each site, if values add there; raises where `how` wants that and they do not."""
    if how in ("cat", "svd"):
        return None
    try:
        return {site.key: coordinates_of(_here(site, weights), site.path) for site in sites}
    except ValueError:
        if how == "linear":
            raise
        return None


def _here(site: Site, weights: Mapping[str, float]) -> dict[str, Adapter]:
    """Those of the adapters that this kernel carries."""
    carried = adapters_of(site.layer)
    return {name: carried[name] for name in weights if name in carried}


def _sums(site: Site, weights: Mapping[str, float], blend: Blend) -> list[np.ndarray]:
    """The blend of the changes of each matrix of a kernel."""
    names = list(_here(site, weights))
    changes = zip(*(changes_of(site, name) for name in names), strict=True)
    return [blend(each, [weights[name] for name in names]) for each in changes]


def _concatenated(site: Site, weights: Mapping[str, float]) -> list[Factors]:
    names = list(_here(site, weights))
    factors = zip(*(exact_factors(site, name) for name in names), strict=True)
    return [concatenate(each, [weights[name] for name in names]) for each in factors]


def _rank(site: Site, weights: Mapping[str, float], energy: float | None) -> int | None:
    """The largest rank of the adapters, where neither rank nor energy is given."""
    methods = [adapter.method for adapter in _here(site, weights).values()]
    ranks = [int(getattr(method, "rank", 0)) for method in methods]
    if energy is not None:
        return None
    if 0 in ranks:
        raise ValueError(
            "A nearest LoRA needs `rank=` or `energy=`, such as 0.99, as an adapter has no rank. "
            f"Received: {', '.join(map(str, methods))}"
        )
    return max(ranks)
