"""The passes that read the gradients of kernels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.batches import Batch
from keras_svd_adapters.models.observation.batches import samples_of
from keras_svd_adapters.models.observation.passes import Counts, Pass, Wanted
from keras_svd_adapters.models.observation.probes import GradientProbe
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.gradients import gradients_on_host, loss_factor
from keras_svd_adapters.runtime.host_values import to_float64


class GradientPass(Pass):
    """Gradients of the mean loss of the compiled model, as `fit` would compute them."""

    needs = ("gradient",)

    def __init__(self, model: Any, wanted: Wanted, with_adapters: bool, components: Counts):
        super().__init__(model, wanted, with_adapters, components)
        self._sums = {site.key: np.zeros(()) for site in self.sites}
        self._samples = 0
        self._factor = loss_factor(model)

    @classmethod
    def bytes_for(cls, need: str, site: Site) -> int:
        return 16 * (site.view.count or 1) * site.view.m * site.view.n  # a sum, zeros, a gradient

    def check(self) -> None:
        if not getattr(self.model, "compiled", False):
            raise ValueError(
                "The gradient of the loss is read here: `compile` the model with its loss before, "
                "and name the whole model, not its backbone. Received: "
                f"{type(self.model).__name__} {self.model.name!r}, which is not compiled"
            )

    def probe(self, site: Site) -> tuple[Method, dict[str, np.ndarray]]:
        adapter = self.active(site)
        if adapter is None:
            return GradientProbe(), {}
        delta = site.view.to_matrix(adapter.delta(base_kernel_value(site.layer)))
        return GradientProbe(is_moved=True), {"change": to_float64(delta)}

    def add(self, batch: Batch) -> None:
        samples = len(keras.tree.flatten(batch[0])[0])
        for site, gradient in self.of(batch, training=True):
            self._sums[site.key] = self._sums[site.key] + samples * gradient
        self._samples += samples

    def of(self, batch: Batch, training: bool) -> list[tuple[Site, np.ndarray]]:
        """Return the gradient of the loss of a batch by each kernel, in float64 on the host."""
        x, y, weight = batch
        if y is None and getattr(self.model, "loss", None) is not None:
            raise ValueError(
                "The gradient of the loss is read here, which needs targets: pass a tuple "
                "`(x, y)`, or a dataset with targets. Received: data without targets"
            )

        def loss() -> Any:
            y_pred = self.model(x, training=training)
            return self.model.compute_loss(x, y, y_pred, weight)

        with self.computing():
            changes = [self.probes[site.key].change for site in self.sites]
            found = gradients_on_host(loss, changes, self._factor)
        return list(zip(self.sites, found, strict=True))

    def statistics(self, need: str, site: Site) -> list[Any]:
        mean = self._sums.pop(site.key) / self._samples
        if not np.isfinite(mean).all():
            raise ValueError(
                "The gradient of this kernel is NaN or infinite: check the data and the loss. "
                f"Received: `{site.path}`"
            )
        return site.view.split(mean)


class FisherPass(GradientPass):
    """Squares of the gradients of the loss of each sample alone, as at inference."""

    needs = ("squared_gradients",)

    def add(self, batch: Batch) -> None:
        for sample in samples_of(batch):
            for site, gradient in self.of(sample, training=False):
                self._sums[site.key] = self._sums[site.key] + gradient**2
            self._samples += 1
