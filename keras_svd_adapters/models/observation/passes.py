"""Passes of data: each reads some kernels' inputs, or their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.attachment import attach_inactive, detach
from keras_svd_adapters.adapters.mode import current_mode, in_mode
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import Chosen
from keras_svd_adapters.models.batches import Batch
from keras_svd_adapters.models.observation.masks import RowMasks
from keras_svd_adapters.models.observation.moments import InputSums, Products
from keras_svd_adapters.models.observation.probes import GradientProbe, InputProbe
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.gradients import gradients, without_gradients
from keras_svd_adapters.runtime.host_values import to_float64, to_float_array
from keras_svd_adapters.runtime.keras_private.layers import all_layers

LARGEST_FACTOR = 2.0**15  # as Keras scales losses in float16 at first


class Pass:
    """Base class: data passes a model whose kernels have probes.

    Class attribute `need`: the field of `Statistics` that a pass finds.

    Args:
        model: The model.
        chosen: The kernels, each with its method.
    """

    need: ClassVar[str]

    def __init__(self, model: Any, chosen: Chosen):
        self.model, self.sites = model, [site for site, _ in chosen]
        self.keys = frozenset(site.key for site in self.sites)
        self.probes: dict[str, Adapter] = {}

    @staticmethod
    def bytes_for(site: Site) -> int:
        """Return the memory that the statistics of a kernel need, 0 if it is little."""
        return 0

    def check(self) -> None:
        """Raise `ValueError` if the model or a kernel does not allow this pass."""

    def probe(self, site: Site) -> Method:
        """Return the probe of a kernel."""
        raise NotImplementedError

    def add(self, batch: Batch) -> None:
        """Pass a batch through the model."""
        raise NotImplementedError

    def statistics(self, site: Site) -> list[Any]:
        """Return what was found for a kernel, for each of its matrices."""
        raise NotImplementedError

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Context manager: the kernels have probes, with which `computing` computes."""
        name = f"-{self.need}"  # which no adapter can have
        try:
            for site in self.sites:
                method = self.probe(site)
                probe = site.new_adapter(method, site.form(method), name, {})
                attach_inactive(site.layer, name, probe)
                self.probes[site.key] = probe
            yield
        finally:
            for site in self.sites[: len(self.probes)]:
                detach(site.layer, name)

    @contextmanager
    def computing(self, **how: Any) -> Iterator[None]:
        """Context manager: the kernels compute with their probes, in this thread."""
        mode, name = current_mode(), f"-{self.need}"
        chosen = {id(site.layer): name for site in self.sites}
        with in_mode(replace(mode, base=mode.base - chosen.keys(), chosen=chosen, **how)):
            yield


class InputPass(Pass):
    """Sums over the inputs of kernels, without padding."""

    need = "inputs"

    def __init__(self, model: Any, chosen: Chosen):
        super().__init__(model, chosen)
        self._sums = {site.key: self.sums(site, method) for site, method in chosen}
        self._products = Products()
        self._masks = RowMasks(None)

    @staticmethod
    def bytes_for(site: Site) -> int:
        return 8 * site.view.m**2

    def check(self) -> None:
        for site in self.sites:
            if site.host.is_lookup or not site.host.is_called:
                raise ValueError(
                    "This start reads the inputs of a kernel, and this layer has none: it looks up "
                    "rows, or reads its kernel as a weight. Leave it out with `exclude`, or give "
                    f"it another method with a mapping in `targets`. Received: `{site.path}`"
                )

    def sums(self, site: Site, method: Method) -> InputSums:
        """Return the sums to keep of the inputs of a kernel, still without rows."""
        return InputSums(site.view.m)

    def found(self, site: Site, sums: InputSums) -> Any:
        """Return what the sums say of a kernel."""
        return sums.moments()

    def probe(self, site: Site) -> Method:
        return InputProbe(partial(self._record, site))

    def _record(self, site: Site, inputs: Any) -> None:
        try:
            rows = to_float_array(inputs).reshape(-1, site.view.m)
        except Exception as error:
            raise ValueError(
                f"The inputs of `{site.path}` exist only within a traced function, such as a loop "
                "over time steps: leave the layer out with `exclude`. Received: "
                f"{type(error).__name__}"
            ) from error
        self._sums[site.key].add(self._masks.kept(rows), self._products)

    def add(self, batch: Batch) -> None:
        self._masks = RowMasks(batch[0])
        with self.computing(notice=lambda inputs: self._masks.note(inputs)):
            without_gradients(lambda: self.model(batch[0], training=False))

    def statistics(self, site: Site) -> list[Any]:
        try:
            return [self.found(site, self._sums.pop(site.key))]
        except ValueError as error:
            raise ValueError(f"{error}: check the data. Received: `{site.path}`") from None


class GradientPass(Pass):
    """Gradients of the mean loss of the compiled model, as `fit` would compute them."""

    need = "gradient"

    def __init__(self, model: Any, chosen: Chosen):
        super().__init__(model, chosen)
        self._sums = {site.key: np.zeros(()) for site in self.sites}
        self._samples = 0

    @staticmethod
    def bytes_for(site: Site) -> int:
        return 16 * (site.view.count or 1) * site.view.m * site.view.n  # a sum, zeros, a gradient

    def check(self) -> None:
        if not getattr(self.model, "compiled", False):
            raise ValueError(
                "This start reads the gradient of the loss: `compile` the model with its loss "
                "before, and adapt the whole model, not its backbone. Received: "
                f"{type(self.model).__name__} {self.model.name!r}, which is not compiled"
            )

    def probe(self, site: Site) -> Method:
        return GradientProbe()

    def add(self, batch: Batch) -> None:
        x, y, weight = batch
        if y is None and getattr(self.model, "loss", None) is not None:
            raise ValueError(
                "This start reads the gradient of the loss, which needs targets: pass "
                "`calibrate=(x, y)`, or a dataset with targets. Received: data without targets"
            )

        def loss() -> Any:
            y_pred = self.model(x, training=True)
            return self.model.compute_loss(x, y, y_pred, weight)

        zeros = [self.probes[site.key].zeros for site in self.sites]
        with self.computing():
            found = self._gradients(loss, zeros)
        samples = len(keras.tree.flatten(x)[0])
        self._samples += samples
        for site, gradient in zip(self.sites, found, strict=True):
            self._sums[site.key] = self._sums[site.key] + samples * gradient

    def _gradients(self, loss: Callable[[], Any], variables: list[Any]) -> list[np.ndarray]:
        """Return gradients on the host; in float16, of the loss times a factor that it can hold."""
        in_half = any(layer.compute_dtype == "float16" for layer in all_layers(self.model))
        factor = LARGEST_FACTOR if in_half else 1.0
        while True:
            found = gradients(lambda: factor * loss(), variables)  # noqa: B023
            values = [to_float64(gradient) / factor for gradient in found]
            if factor <= 1 or all(np.isfinite(value).all() for value in values):
                return values
            factor /= 8

    def statistics(self, site: Site) -> list[Any]:
        mean = self._sums.pop(site.key) / self._samples
        if not np.isfinite(mean).all():
            raise ValueError(
                "The gradient of this kernel is NaN or infinite: check the data and the loss. "
                f"Received: `{site.path}`"
            )
        return site.view.split(mean)
