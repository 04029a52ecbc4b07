"""The storages by their mode, and what is done with each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_svd_adapters.adapters.storages.keras_integers import KerasIntegers
from keras_svd_adapters.adapters.storages.nf4 import NF4
from keras_svd_adapters.adapters.storages.storage import Rounded, Storage
from keras_svd_adapters.kernels.calibrated import CALIBRATED
from keras_svd_adapters.kernels.quantized import mode_of

STORAGES: dict[str, Storage] = {
    storage.mode: storage for storage in (KerasIntegers("int8"), KerasIntegers("int4"), NF4("nf4"))
}

CALIBRATED_BY_KERAS: dict[str, Storage] = {mode: KerasIntegers(mode) for mode in CALIBRATED}


def storage_of(layer: keras.layers.Layer) -> Storage:
    """Return the storage of a quantized layer."""
    return (STORAGES | CALIBRATED_BY_KERAS)[str(mode_of(layer))]


def quantized_kernel(
    layer: keras.layers.Layer, kernel: Any, mode: str, config: Any = None
) -> Rounded:
    """Quantize a kernel as a layer of this kind stores it in this mode."""
    return STORAGES[mode].round(layer, kernel, config)


def requantized_kernel(layer: keras.layers.Layer, kernel: Any) -> Rounded:
    """Quantize a kernel as a layer that is quantized stores it."""
    storage = storage_of(layer)
    return storage.round(layer, kernel, storage.config_of(layer))


def make_float(layer: keras.layers.Layer, kernel: Any, policy: Any) -> Callable[[], None]:
    """Replace the stored kernel of a layer by a float kernel; return a function that undoes it."""
    return storage_of(layer).make_float(layer, kernel, policy)
