"""Sums of the factors of several adapters, whose products then mix.

dK = (w_1 A_1 + w_2 A_2 + ...) (w_1 B_1 + w_2 B_2 + ...)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.kernels.low_rank_factors import Factors
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.site import Site


class FactorSum:
    """The sums of the factors of several adapters of one kernel.

    Args:
        site: The kernel.
        names: Names of adapters; those that the kernel does not have add nothing.

    Raises:
        ValueError: If an adapter has no factors, or the ranks differ.
    """

    def __init__(self, site: Site, names: Sequence[str]):
        self.site = site
        carried = adapters_of(site.layer)
        self.names = [name for name in names if name in carried]
        self.factors = {name: self._factors_of(name) for name in self.names}
        self._check_ranks()

    def factors_for(self, weights: Mapping[str, float]) -> list[Factors]:
        """Return the sum of A and the sum of B, for each matrix of the kernel."""
        return [
            (
                sum(weights[name] * A for name, (A, _) in zip(self.names, pairs, strict=True)),
                sum(weights[name] * B for name, (_, B) in zip(self.names, pairs, strict=True)),
            )
            for pairs in zip(*self.factors.values(), strict=True)
        ]

    def _factors_of(self, name: str) -> list[Factors]:
        adapter = adapters_of(self.site.layer)[name]
        values = adapter.numpy_values()
        found = [adapter.method.low_rank(each, self.site.view.m) for each in values]
        factors = [pair for pair in found if pair is not None]
        if not factors:
            known = Method.registry.values()
            exact = sorted(m.__name__ for m in known if m.low_rank is not Method.low_rank)
            raise ValueError(
                f"{adapter.method} has no factors A and B whose product is its update: leave "
                f"`how` out, which sums any updates. These have factors: {', '.join(exact)}. "
                f"Received: how='factors', and {name!r} on `{self.site.path}`"
            )
        return factors

    def _check_ranks(self) -> None:
        ranks = {name: pairs[0][0].shape[1] for name, pairs in self.factors.items()}
        if len(set(ranks.values())) > 1:
            raise ValueError(
                "A sum of factors adds A to A and B to B, so all have one rank: leave `how` out, "
                "which sums the updates of any ranks, or make LoRAs of one rank with `to_lora`. "
                f"Received: how='factors', and ranks {ranks} on `{self.site.path}`"
            )
