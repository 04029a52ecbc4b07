"""How each kernel of a model is stored as integers, within a budget of bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from numbers import Real
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_svd_adapters.adapters.requantization import Rounded, grouped_config, quantized_kernel
from keras_svd_adapters.kernels.bit_allocation import allocate
from keras_svd_adapters.models.sites.site import Site

# The sizes of groups to choose from, by mode: -1 for one scale an output, `None` for the default.
GROUPS: dict[str, tuple[int | None, ...]] = {
    "int8": (None,),
    "int4": (-1, 128, 64, 32, 16),
}


class Storage(NamedTuple):
    """A mode of quantization, and its configuration in Keras; `None` is the default."""

    mode: str
    config: Any = None


def storages_of(modes: Sequence[str]) -> list[Storage]:
    """Return all ways to store a kernel in one of some modes."""
    found = []
    for mode in modes:
        configs = [
            None if size is None else grouped_config(mode, size)
            for size in GROUPS.get(mode, (None,))
        ]
        if None in configs:  # also if this Keras has no groups
            configs = [None]
        found += [Storage(mode, config) for config in configs]
    return found


def check_bits(mode: Any, config: Any, bits: float | None) -> list[str]:
    """Return the modes to choose from; raise an error if the budget does not suit them."""
    modes = [mode] if isinstance(mode, str) or not isinstance(mode, Sequence) else list(mode)
    if bits is None:
        if len(modes) != 1:
            raise ValueError(
                "Several modes need a budget, as in `bits=5.0`; else `mode` is one of them. "
                f"Received: mode={mode!r}, bits=None"
            )
        return modes
    if not modes or isinstance(bits, bool) or not isinstance(bits, Real) or bits <= 0:
        raise ValueError(
            "`bits` is a positive number, such as 4.5, for at least one mode. "
            f"Received: mode={mode!r}, bits={bits!r}"
        )
    if config is not None:
        raise ValueError(
            "With a budget, each kernel gets its own configuration: leave `config` out, or `bits`. "
            f"Received: bits={bits!r}, config={config!r}"
        )
    return modes


def rounded_kernel(site: Site, storage: Storage, matrix: np.ndarray) -> Rounded:
    """Return the kernel of a site as it is stored with the values of a matrix."""
    kernel = site.view.from_matrix(keras.ops.convert_to_tensor(matrix))
    return quantized_kernel(site.layer, kernel, storage.mode, storage.config)


def _bytes(site: Site, storage: Storage) -> int:
    return rounded_kernel(site, storage, site.matrix()).bytes


def choose_storages(
    sites: Sequence[Site],
    storages: Sequence[Storage],
    bits: float,
    error: Callable[[Site, Storage], float],
) -> list[Storage]:
    """Return how to store each kernel, so that the sum of their squared errors is smallest.

    Args:
        sites: The kernels.
        storages: The ways to store a kernel.
        bits: Budget in bits for each value, on average over all kernels.
        error: Function that returns the error of a stored kernel with its factors.

    Raises:
        ValueError: If the smallest storage of each kernel exceeds the budget.
    """
    sizes = np.array([[_bytes(site, storage) for storage in storages] for site in sites])
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
