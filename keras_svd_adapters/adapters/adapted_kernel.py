"""Mixin for layers whose kernel other code may read."""

from __future__ import annotations

from typing import Any

import keras

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.runtime.host_memory import on_device


class AdaptedKernel(AdaptedLayer):
    """Mixin for layers whose kernel is the attribute `kernel`, which other code may read."""

    @staticmethod
    def exclusion_reason(layer: keras.layers.Layer) -> str | None:
        if layer.kernel_constraint is not None:
            return "its kernel has a constraint, which an adapter would not obey"
        return None

    @property
    def own_kernel(self) -> keras.Variable:
        return super().kernel  # type: ignore[misc]

    @property
    def kernel(self) -> Any:
        """The effective kernel."""
        return self.effective_kernel(on_device(super().kernel))  # type: ignore[misc]
