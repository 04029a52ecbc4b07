"""A recurrent layer that computes the effective kernels of its cell once a call.

The cell reads its kernels in each time step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keras_svd_adapters.adapters.layers.read_weight import ReadKernel, attached_kernels
from keras_svd_adapters.adapters.mode import current_mode, in_mode
from keras_svd_adapters.runtime.keras_private.layers import all_layers


class HeldKernelsLayer:
    """Mixin of a recurrent layer whose cell has adapters."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        mode = current_mode()
        known = mode.per_sample.keys() | mode.held.keys()
        new = [each for each in kernels_below(self) if id(each) not in known]
        held = {id(each): each.effective_kernel(each.kernel) for each in new}
        with in_mode(replace(mode, held={**mode.held, **held})):
            return super().call(*args, **kwargs)  # type: ignore[misc]


def kernels_below(layer: Any) -> list[ReadKernel]:
    """Return the weights with adapters that the layers below a layer read."""
    return [kernel for each in all_layers(layer) for kernel in attached_kernels(each)]
