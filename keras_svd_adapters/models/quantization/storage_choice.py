"""How each kernel of a model is stored, within a budget of bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_svd_adapters.adapters.storages.registry import STORAGES, quantized_kernel
from keras_svd_adapters.adapters.storages.storage import Rounded
from keras_svd_adapters.kernels.bit_allocation import allocate
from keras_svd_adapters.models.sites.site import Site

# The sizes of groups to choose from, by mode: -1 for one scale an output, `None` for the default.
GROUPS: dict[str, tuple[int | None, ...]] = {
    "int8": (None,),
    "int4": (-1, 128, 64, 32, 16),
    "nf4": (256, 64, 32),
}


class StoredAs(NamedTuple):
    """A mode of quantization, and its configuration; `None` is the default."""

    mode: str
    config: Any = None

    def round(self, site: Site, matrix: np.ndarray) -> Rounded:
        """Return the kernel of a site as it is stored with the values of a matrix."""
        kernel = site.view.from_matrix(keras.ops.convert_to_tensor(matrix))
        return quantized_kernel(site.layer, kernel, self.mode, self.config)

    def name_of(self, rounded: Rounded) -> str:
        """Return the mode, and the size of the groups of a kernel if there are any."""
        groups = rounded.stored.get("g_idx")
        size = getattr(self.config, "block_size", None)
        size = size if groups is None else int((groups == 0).sum())
        return self.mode + (f"/{size}" if size and size > 0 else "")

    def store(self, target: Any) -> None:
        """Store the kernel of a float layer, or all such kernels of a model."""
        STORAGES[self.mode].store(target, self.config)


def all_storages(modes: Sequence[str]) -> list[StoredAs]:
    """Return all ways to store a kernel in one of some modes."""
    found = []
    for mode in modes:
        sizes = GROUPS.get(mode, (None,))
        configs = [None if size is None else STORAGES[mode].grouped(size) for size in sizes]
        if None in configs:  # also if this Keras has no groups
            configs = [None]
        found += [StoredAs(mode, config) for config in configs]
    return found


def choose_storages(
    sites: Sequence[Site],
    storages: Sequence[StoredAs],
    bits: float,
    error: Callable[[Site, StoredAs], float],
) -> list[StoredAs]:
    """Return how to store each kernel, so that the sum of their squared errors is smallest.

    Args:
        sites: The kernels.
        storages: The ways to store a kernel.
        bits: Budget in bits for each value, on average over all kernels.
        error: Function that returns the error of a stored kernel with its factors.

    Raises:
        ValueError: If the smallest storage of each kernel exceeds the budget.
    """
    sizes = np.array(
        [[each.round(site, site.matrix()).bytes for each in storages] for site in sites]
    )
    values = sum(site.view.m * site.view.n for site in sites)
    least = 8 * sizes.min(axis=1).sum() / values
    if least > bits:
        raise ValueError(
            f"The smallest storage of these kernels needs {least:.3f} bits a value, with scales "
            f"and zero points: use `bits={ceil(100 * least) / 100}` or more, or other modes. "
            f"Received: bits={bits!r}, with {', '.join(dict.fromkeys(s.mode for s in storages))}"
        )
    errors = [[error(site, storage) ** 2 for storage in storages] for site in sites]
    return [storages[number] for number in allocate(errors, sizes, bits * values / 8)]
