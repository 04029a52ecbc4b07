"""The pass of data that finds the principal components of the inputs of kernels."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from keras_svd_adapters.methods.contract import Components
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import Chosen
from keras_svd_adapters.models.observation.moments import InputSums, sketch_of
from keras_svd_adapters.models.observation.passes import InputPass
from keras_svd_adapters.models.sites.site import Site


class ComponentPass(InputPass):
    """Principal components of the inputs of kernels, without padding."""

    need = "components"

    def __init__(self, model: Any, chosen: Chosen):
        self._counts = {site.key: min(method.components, site.view.m) for site, method in chosen}
        self._sketch = cache(sketch_of)
        self._last: tuple[int, np.ndarray, Components] | None = None
        super().__init__(model, chosen)

    @staticmethod
    def bytes_for(site: Site) -> int:
        return 0  # ranks move only if all kernels are in the first group

    def sums(self, site: Site, method: Method) -> InputSums:
        return InputSums(site.view.m, self._sketch(site.view.m, self._counts[site.key]))

    def found(self, site: Site, sums: InputSums) -> Any:
        count = self._counts[site.key]
        before = self._last
        if before is None or before[0] != count or not np.array_equal(before[1], sums.squares):
            before = self._last = count, sums.squares, sums.components(count)
        return before[2]  # kernels of equal inputs share them
