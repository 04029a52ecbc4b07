"""Terms of the loss that are averaged over all kernels of an adapter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.in_training.penalty import Penalty, penalties_of
from keras_svd_adapters.models.sites.site import Site


def average_penalties(sites: Iterable[Site]) -> None:
    """Divide the penalties of each adapter by the number of its arrays that have one.

    This concerns methods with `mean_penalty`. An adapter with several methods has a mean for each.
    Sites may be given twice.
    """
    groups: dict[Any, dict[int, Penalty]] = {}
    for site in sites:
        for name, adapter in adapters_of(site.layer).items():
            if adapter.method.mean_penalty:
                group = groups.setdefault((name, adapter.method.name), {})
                group |= {id(penalty): penalty for penalty in penalties_of(adapter)}
    for group in groups.values():
        for penalty in group.values():
            penalty.share = 1 / sum(each.count for each in group.values())
