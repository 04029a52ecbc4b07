"""The record that `merge` keeps so that `unmerge` can restore every bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.attachment import (
    Activation,
    activate,
    activation_of,
    detach,
    mark_merged,
    reattach,
)
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.storages.registry import make_float, requantized_kernel
from keras_svd_adapters.kernels.quantized import float_policy, holds_integers, stored_weights
from keras_svd_adapters.models.refresh import sync_model
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.host_values import to_host_exact


class KernelRecord(NamedTuple):
    """A record that undoes the merge of one kernel.

    Args:
        layer: The layer of the kernel.
        adapters: The adapters of the layer, in their order.
        merged: Names of the adapters that were merged.
        active: The active adapters before the merge.
        was_merged: Whether an earlier merge had changed the kernel.
        restore: Function that restores the kernel.
        sha256: Hash of the merged kernel.
    """

    layer: keras.layers.Layer
    adapters: dict[str, Adapter]
    merged: tuple[str, ...]
    active: Activation
    was_merged: bool
    restore: Callable[[], None]
    sha256: str


@dataclass(frozen=True, eq=False)
class MergeRecord:
    """A record that undoes a merge; the model keeps it, hidden from Keras's saving.

    Args:
        kernels: The merged kernels.
        trained: Weights outside the adapters, with the adapter that each trains with.
        others: Adapters that were not merged.
    """

    kernels: list[KernelRecord]
    trained: list[tuple[keras.Variable, str]]
    others: list[Adapter]


def _restore_kernels(record: MergeRecord) -> None:
    for kernel in record.kernels:
        kernel.restore()
        names = {*kernel.merged, *adapters_of(kernel.layer)}  # others may be deleted by now
        adapters = {name: each for name, each in kernel.adapters.items() if name in names}
        reattach(kernel.layer, adapters, kernel.active)
        mark_merged(kernel.layer, kernel.was_merged)


def _undo_merge(model: keras.layers.Layer, record: MergeRecord) -> None:
    _restore_kernels(record)
    for merged in record.kernels:
        activate(merged.layer, *merged.active)
    for weight, owner in record.trained:
        weight.trained_with = owner
    sync_model(model)


def _fold(site: Site, record: MergeRecord, quantized: str | None) -> None:
    layer = site.layer
    adapters, names, active = adapters_of(layer), layer.active_adapters, activation_of(layer)
    was_merged, merged = layer.is_merged, layer.merged_kernel()
    if holds_integers(layer) and quantized == "float":
        restore = make_float(layer, merged, float_policy(layer))
    else:
        weights = _weights_of_kernel(layer)
        values = [merged]
        if holds_integers(layer):
            stored = requantized_kernel(layer, merged).stored
            values = [stored[weight.name] for weight in weights]
        before = [to_host_exact(weight) for weight in weights]
        try:
            _assign(weights, values)
        except BaseException:
            _assign(weights, before)
            raise
        restore = partial(_assign, weights, before)
    record.kernels.append(KernelRecord(layer, adapters, names, active, was_merged, restore, ""))
    record.kernels[-1] = record.kernels[-1]._replace(sha256=_sha256(layer))
    for name in names:
        detach(layer, name)
    mark_merged(layer, True)


def _weights_of_kernel(layer: keras.layers.Layer) -> list[keras.Variable]:
    return (
        list(stored_weights(layer).values())
        if holds_integers(layer)
        else [base_kernel_variable(layer)]
    )


def _assign(weights: list[keras.Variable], values: list[Any]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.assign(ops.cast(value, weight.dtype))


def _sha256(layer: keras.layers.Layer) -> str:
    digest = hashlib.sha256()
    for weight in _weights_of_kernel(layer):
        digest.update(np.ascontiguousarray(to_host_exact(weight)).tobytes())
    return digest.hexdigest()
