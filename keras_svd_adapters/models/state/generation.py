"""Advice to merge adapters before generating text, one token at a time."""

from __future__ import annotations

from functools import wraps
from typing import Any

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.locked_model import running
from keras_svd_adapters.runtime.warnings import warn

ADVICE = (
    "An unmerged adapter costs time for every token. Before you serve the model or generate "
    "much, call\n`keras_svd_adapters.merge(model)`; `unmerge` undoes it."
)


def advise_merging(cls: Any) -> None:
    """Wrap `generate` of a KerasHub class: it advises once to merge, and adapters do not change."""
    original = cls.generate

    @wraps(original)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        told = vars(self).get("was_advised") or not can_merge(adapted_sites(self))
        if not told and computes_adapters(self, of_one=True):
            object.__setattr__(self, "was_advised", True)
            warn(f"{ADVICE.replace(chr(10), ' ')} Received: generate on {self.name}")
        with running(self):
            return original(self, *args, **kwargs)

    cls.generate = generate


def can_merge(sites: list[Site]) -> bool:
    """Whether all active adapters of some sites change kernels, so that they can be merged."""
    return not any(
        adapters_of(site.layer)[name].method.depends_on_input
        for site in sites
        for name in site.layer.active_adapters
    )


def computes_adapters(model: Any, of_one: bool = False) -> bool:
    """Whether a call of the model runs an adapter; with `of_one`, one adapter for all samples."""
    layers = [site.layer for site in adapted_sites(model)]
    return any(
        not (layer.is_inactive or (of_one and layer.mixture is not None)) for layer in layers
    )
