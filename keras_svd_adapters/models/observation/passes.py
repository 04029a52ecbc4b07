"""The base class of passes of data, whose kernels have probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.attachment import attach_inactive, detach
from keras_svd_adapters.adapters.mode import current_mode, in_mode
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.batches import Batch
from keras_svd_adapters.models.sites.site import Site

Wanted = Mapping[str, Sequence[Site]]  # by the field of `Statistics`
Counts = Mapping[str, int]  # by the key of a site


class Pass:
    """Base class: data passes a model whose kernels have probes.

    Class attribute `needs`: the fields of `Statistics` that a pass finds.

    Args:
        model: The model.
        wanted: The kernels of each of these fields.
        with_adapters: Whether the kernels compute with their active adapters, or without.
        components: The number of principal components to find, by the key of a site.
    """

    needs: ClassVar[tuple[str, ...]]

    def __init__(self, model: Any, wanted: Wanted, with_adapters: bool, components: Counts):
        self.model, self.wanted, self.with_adapters = model, wanted, with_adapters
        self.components = components
        every = {site.key: site for sites in wanted.values() for site in sites}
        self.sites = list(every.values())
        self.probes: dict[str, Adapter] = {}

    @classmethod
    def bytes_for(cls, need: str, site: Site) -> int:
        """Return the memory that a statistic of a kernel needs, 0 if it is little."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise `ValueError` if the model or a kernel does not allow this pass."""

    def probe(self, site: Site) -> tuple[Method, dict[str, np.ndarray]]:
        """Return the probe of a kernel, and values of its arrays."""
        raise NotImplementedError

    def add(self, batch: Batch) -> None:
        """Pass a batch through the model."""
        raise NotImplementedError

    def statistics(self, need: str, site: Site) -> list[Any]:
        """Return what was found for a kernel, for each of its matrices."""
        raise NotImplementedError

    def active(self, site: Site) -> Adapter | None:
        """Return the adapter with which a kernel computes, if it does with one."""
        layer: Any = site.layer
        if not (self.with_adapters and isinstance(layer, AdaptedLayer)) or layer.is_inactive:
            return None
        return layer.adapter()

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Context manager: the kernels have probes, with which `computing` computes."""
        try:
            for site in self.sites:
                method, values = self.probe(site)
                probe = site.new_adapter(method, site.form(method), self._name, values)
                attach_inactive(site.layer, self._name, probe)
                self.probes[site.key] = probe
            yield
        finally:
            for site in self.sites[: len(self.probes)]:
                detach(site.layer, self._name)

    @contextmanager
    def computing(self, **how: Any) -> Iterator[None]:
        """Context manager: the kernels compute with their probes, in this thread."""
        mode = current_mode()
        chosen = {id(site.layer): self._name for site in self.sites}
        with in_mode(replace(mode, base=mode.base - chosen.keys(), chosen=chosen, **how)):
            yield

    @property
    def _name(self) -> str:
        """The name of the probes, which no adapter can have."""
        return f"-{self.needs[0]}"
