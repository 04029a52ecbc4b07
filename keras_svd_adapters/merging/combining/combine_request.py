"""Arguments of `combine` and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from keras_svd_adapters.kernels.low_rank_factors import check_size, is_share
from keras_svd_adapters.merging.combining.blending import Blend, dare, ties, weighted_sum
from keras_svd_adapters.merging.combining.observed_blending import OBSERVED
from keras_svd_adapters.models.weights_request import is_weight

DENSITY, SEED = 0.2, 0
EXACT = ("exact", "linear", "cat")
PARTIAL = ("ties", "dare")
OF_DATA = tuple(OBSERVED)
HOWS = (*EXACT, "svd", "factors", *PARTIAL, *OF_DATA)
NEAREST = ("svd", *PARTIAL, *OF_DATA)
USED_BY = {
    "rank": NEAREST,
    "energy": NEAREST,
    "density": PARTIAL,
    "seed": ("dare",),
    "observed": OF_DATA,
}


@dataclass(frozen=True)
class CombineRequest:
    """Arguments of `combine`; invalid ones raise `ValueError`."""

    weights: Mapping[str, float]
    how: str
    rank: int | None
    energy: float | None
    density: float | None
    seed: int | None
    observed: Mapping[str, Mapping[str, Any]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_weights(self.weights)
        if self.how not in HOWS:
            raise ValueError(f"`how` must be one of {HOWS}. Received: how={self.how!r}")
        for argument, hows in USED_BY.items():
            self._check_effect(argument, hows)
        check_size(self.rank, self.energy)
        _check_density(self.density)
        _check_seed(self.seed)
        if self.how in OF_DATA:
            self._check_observed()

    def _check_observed(self) -> None:
        given = self.observed if isinstance(self.observed, Mapping) else {}
        if missing := [name for name in self.weights if name not in given]:
            raise ValueError(
                f"`how={self.how!r}` needs what `observe` finds with each adapter, as in "
                f"`observed={{'a': ..., 'b': ...}}`. Received: none of {', '.join(missing)}"
            )
        if not all(weight > 0 for weight in self.weights.values()):
            raise ValueError(
                f"`how={self.how!r}` makes a mean: its weights are positive. "
                f"Received: weights={self.weights!r}"
            )

    def _check_effect(self, argument: str, hows: tuple[str, ...]) -> None:
        value = getattr(self, argument)
        if value is not None and self.how not in hows:
            one = " or ".join(f"`how={how!r}`" for how in hows)
            raise ValueError(
                f"`{argument}` has an effect only with {one}: leave it out, or choose that. "
                f"Received: how={self.how!r}, {argument}={value!r}"
            )

    def check_used(self, nearest: bool) -> None:
        """Raise if the size of a nearest LoRA is given but no such LoRA is made."""
        if not nearest and (self.rank, self.energy) != (None, None):
            raise ValueError(
                f"The trained values of these adapters add up, so `how={self.how!r}` makes an "
                "adapter of the same method, not a LoRA: leave `rank` and `energy` out, or use "
                f"`how='svd'`. Received: rank={self.rank!r}, energy={self.energy!r}"
            )

    def blend(self, place: int) -> Blend:
        """Return the function that blends updates of the kernel at a place, reproducibly."""
        density = DENSITY if self.density is None else self.density
        if self.how == "ties":
            return partial(ties, density=density)
        if self.how == "dare":
            rng = np.random.default_rng([SEED if self.seed is None else self.seed, place])
            return partial(dare, density=density, rng=rng)
        return weighted_sum

    @property
    def description(self) -> str:
        """The target update of the new adapter, in words."""
        if self.how == "factors":
            return "the product of the sums of factors, which is not the weighted sum,"
        partial = f"the blend of {self.how!r}, which is not the weighted sum,"
        return partial if self.how in (*PARTIAL, *OF_DATA) else "the weighted sum"


def _check_weights(weights: Mapping[str, float]) -> None:
    numbers = isinstance(weights, Mapping) and all(map(is_weight, weights.values()))
    if not numbers or not weights:
        raise ValueError(
            "`weights` gives each adapter a finite weight, such as `{'a': 0.7, 'b': 0.3}`. "
            f"Received: weights={weights!r}"
        )


def _check_density(density: float | None) -> None:
    if density is not None and not is_share(density):
        raise ValueError(
            "`density` is the share of entries to keep, between 0 and 1, such as 0.2. Received: "
            f"density={density!r}"
        )


def _check_seed(seed: int | None) -> None:
    if seed is not None and not _is_seed(seed):
        raise ValueError(
            f"`seed` must be a non-negative integer, such as 1. Received: seed={seed!r}"
        )


def _is_seed(seed: Any) -> bool:
    return isinstance(seed, Integral) and not isinstance(seed, bool) and int(seed) >= 0
