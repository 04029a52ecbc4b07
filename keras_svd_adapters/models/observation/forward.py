"""The pass that reads the inputs of kernels, and the outputs of their branches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.batches import Batch
from keras_svd_adapters.models.observation.masks import RowMasks
from keras_svd_adapters.models.observation.moments import SUMS, Products, RowSums
from keras_svd_adapters.models.observation.passes import Counts, Pass, Wanted
from keras_svd_adapters.models.observation.probes import InputProbe
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.gradients import without_gradients
from keras_svd_adapters.runtime.host_values import cast_float, to_float_array

BRANCH = "branch_norms"


class ForwardPass(Pass):
    """Sums over the rows that pass kernels, without padding; one call of the model per batch."""

    needs = tuple(SUMS)

    def __init__(self, model: Any, wanted: Wanted, with_adapters: bool, components: Counts):
        super().__init__(model, wanted, with_adapters, components)
        products = Products()
        self._sums = {
            (need, site.key): SUMS[need](products, components.get(site.key, 0))
            for need, sites in wanted.items()
            for site in sites
        }
        self._masks = RowMasks(None)

    @classmethod
    def bytes_for(cls, need: str, site: Site) -> int:
        return SUMS[need].bytes_for(site.view.m)

    def check(self) -> None:
        for need, sites in self.wanted.items():
            for site in sites:
                is_read = need == BRANCH
                if not site.host.is_called or (site.host.is_lookup and not is_read):
                    raise ValueError(
                        "The inputs of a kernel are read here, and this layer has none: it looks "
                        "up rows, or reads its kernel as a weight. Leave it out with `exclude`, "
                        "or, in `enable`, give it another method with a mapping in `targets`. "
                        f"Received: `{site.path}`"
                    )
                if is_read and self.active(site) is None:
                    raise ValueError(
                        "`branch_norms` measures what an active adapter adds to the outputs of a "
                        "kernel, and this kernel computes without one: `enable` or `set_adapter` "
                        f"first, or leave it out with `exclude`. Received: `{site.path}`"
                    )

    def probe(self, site: Site) -> tuple[Method, dict[str, np.ndarray]]:
        inputs = [self._sums.get((need, site.key)) for need in SUMS if need != BRANCH]
        branch = self._sums.get((BRANCH, site.key))
        reads = [sums for sums in inputs if sums is not None]
        adapter = self.active(site)
        if adapter is None:
            return InputProbe(_base, partial(self._record, site, reads)), {}

        return InputProbe(
            partial(adapter.adapt, training=False),
            partial(self._record, site, reads) if reads else None,
            partial(self._record, site, [branch]) if branch is not None else None,
            partial(_branch, site, adapter),
        ), {}

    def _record(self, site: Site, sums: Sequence[RowSums], values: Any) -> None:
        try:
            rows = to_float_array(values)
        except Exception as error:
            raise ValueError(
                f"The inputs of `{site.path}` exist only within a traced function, such as a loop "
                "over time steps: leave the layer out with `exclude`. Received: "
                f"{type(error).__name__}"
            ) from error
        rows = self._masks.kept(rows.reshape(-1, rows.shape[-1]))
        for each in sums:
            each.add(rows)

    def add(self, batch: Batch) -> None:
        self._masks = RowMasks(batch[0])
        with self.computing(notice=lambda inputs: self._masks.note(inputs)):
            without_gradients(lambda: self.model(batch[0], training=False))

    def statistics(self, need: str, site: Site) -> list[Any]:
        try:
            return [self._sums.pop((need, site.key)).statistics()]
        except ValueError as error:
            raise ValueError(f"{error}: check the data. Received: `{site.path}`") from None


def _branch(site: Site, adapter: Adapter, x: Any, base: Any) -> Any:
    """Return what an adapter adds to the outputs of a kernel, in float32."""
    if adapter.method.depends_on_input:
        y = adapter.adapt(x, base, training=False)
        return ops.cast(y, "float32") - ops.cast(base(x), "float32")
    delta = site.view.to_matrix(adapter.delta(base_kernel_value(site.layer)))
    return base.times(cast_float(x, "float32"), ops.cast(delta, "float32"))


def _base(x: Any, base: Any) -> Any:
    """Return the outputs of a kernel alone."""
    return base(x)
