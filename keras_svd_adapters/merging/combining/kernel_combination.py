"""Combine the adapters of one kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.kernels.low_rank_factors import Factors, concatenate, truncate
from keras_svd_adapters.merging.combining.blending import Blend
from keras_svd_adapters.merging.combining.combine_request import OF_DATA, PARTIAL, CombineRequest
from keras_svd_adapters.merging.combining.factor_sum import FactorSum
from keras_svd_adapters.merging.combining.observed_blending import observed_blends
from keras_svd_adapters.merging.combining.shared_basis import SharedBasis, shared_basis_of
from keras_svd_adapters.merging.kernel_updates import exact_factors, kernel_updates
from keras_svd_adapters.merging.new_adapters import NewAdapter, lora_of
from keras_svd_adapters.models.sites.site import Site

LARGEST = float(np.finfo("float32").max)


@dataclass(frozen=True)
class KernelCombination:
    """Combination of the adapters of a kernel that a request names.

    Args:
        site: The kernel.
        place: The number of the kernel among the combined kernels.
        recipe: The arguments of `combine`.
    """

    site: Site
    place: int
    recipe: CombineRequest

    def new_adapter(self) -> NewAdapter:
        """Return an adapter of the same method if trained values can add, else a LoRA."""
        coordinates = self._coordinates()
        if coordinates is None:
            return lora_of(self.site, self._factors(), self._changes)
        wanted: Callable[[], list[np.ndarray]] | None = self._changes
        if self.recipe.how in PARTIAL:  # these blend trained values, not kernel updates
            wanted = None
        return NewAdapter(self.site, coordinates.method, coordinates.form, self._values, wanted)

    @property
    def _adapters(self) -> dict[str, Adapter]:
        carried = adapters_of(self.site.layer)
        return {name: carried[name] for name in self.recipe.weights if name in carried}

    def _coordinates(self) -> SharedBasis | None:
        """Return the shared basis, or `None`; raise if trained values must add but cannot."""
        if self.recipe.how in ("cat", "svd", "factors", *OF_DATA):
            return None
        try:
            return shared_basis_of(self._adapters, self.site.path)
        except ValueError:
            if self.recipe.how == "linear":
                raise
            return None

    def _values(self) -> dict[str, np.ndarray]:
        coordinates = shared_basis_of(self._adapters, self.site.path)
        return coordinates.blended(self.recipe.blend(self.place), self.recipe.weights)

    def _changes(self) -> list[np.ndarray]:
        """Return the blend of the updates of each matrix of the kernel."""
        if self.recipe.how == "factors":
            return [self._finite(A @ B) for A, B in self._factors()]
        names = list(self._adapters)
        weights = [self.recipe.weights[name] for name in names]
        changes = zip(*(kernel_updates(self.site, name) for name in names), strict=True)
        blends = self._blends(names)
        return [self._finite(blend(c, weights)) for blend, c in zip(blends, changes, strict=True)]

    def _blends(self, names: list[str]) -> list[Blend]:
        """Return the function that blends the updates of each matrix."""
        if self.recipe.observed is None:
            return [self.recipe.blend(self.place)] * len(self.site.places)
        return observed_blends(self.recipe.how, self.recipe.observed, names, self.site)

    def _finite(self, change: np.ndarray) -> np.ndarray:
        if not np.abs(change).max() <= LARGEST:
            raise ValueError(
                "The sum is too large for float32 and would be NaN or infinite: lower the "
                f"weights. Received: weights={self.recipe.weights!r}, on `{self.site.path}`"
            )
        return change

    def _factors(self) -> list[Factors]:
        if self.recipe.how in ("exact", "cat"):
            return self._concatenated()
        if self.recipe.how == "factors":
            names = list(self.recipe.weights)
            return FactorSum(self.site, names).factors_for(self.recipe.weights)
        rank = self._rank()
        return [truncate(each, rank, self.recipe.energy) for each in self._changes()]

    def _concatenated(self) -> list[Factors]:
        weights = self.recipe.weights
        names = [name for name in self._adapters if weights[name]] or list(self._adapters)[:1]
        factors = zip(*(exact_factors(self.site, name) for name in names), strict=True)
        return [concatenate(each, [weights[name] for name in names]) for each in factors]

    def _rank(self) -> int | None:
        """Return the given rank; the largest of the adapters if no rank or energy is given."""
        if self.recipe.rank is not None or self.recipe.energy is not None:
            return self.recipe.rank
        methods = [adapter.method for adapter in self._adapters.values()]
        ranks = [int(getattr(method, "rank", 0)) for method in methods]
        if 0 in ranks:
            raise ValueError(
                "A nearest LoRA needs `rank=` or `energy=`, such as `energy=0.99`: an adapter "
                f"here has no rank of its own. Received: {', '.join(map(str, methods))} on "
                f"`{self.site.path}`"
            )
        return max(ranks)
