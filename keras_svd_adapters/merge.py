"""Folding adapters into the kernels they adapt, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapter import Adapter
from keras_svd_adapters.float_kernel import make_float
from keras_svd_adapters.host import (
    activate,
    adapters_of,
    base_kernel,
    base_value,
    carry_again,
    detach,
)
from keras_svd_adapters.keras_traversal import all_layers, direct_weights
from keras_svd_adapters.live_models import models_around, searching_once
from keras_svd_adapters.merge_report import MergedKernel, MergeReport, measure, output_change
from keras_svd_adapters.quantized import float_policy, holds_integers, stored_weights
from keras_svd_adapters.rounding import rounded_again
from keras_svd_adapters.site import Site, adapted_sites
from keras_svd_adapters.switching import require_adapter, restore_plain, settle
from keras_svd_adapters.values import to_host, to_numpy
from keras_svd_adapters.weights import own_weights, trained_with

QUANTIZED = ("float", "requantize")


class Merged(NamedTuple):
    """What takes the merging of one kernel back."""

    layer: keras.layers.Layer
    name: str
    adapter: Adapter
    restore: Callable[[], None]
    sha256: str


@dataclass(frozen=True, eq=False)
class Record:
    """What takes a merge back; the model keeps it, out of sight of Keras's saving."""

    kernels: list[Merged]
    trained: list[tuple[keras.Variable, str]]


def merge(
    model: keras.layers.Layer,
    tolerance: float | None = None,
    probe: Any = None,
    keep_base: bool = True,
    quantized: str | None = None,
) -> MergeReport:
    """Folds the active adapter into the kernels, which then costs nothing.

    The delta is computed in float32, added to the kernel and rounded once. The
    model is an ordinary one afterwards: it saves, generates and exports without
    this package, and its weights train again as they did before `enable`.

    Args:
        model: An adapted model.
        tolerance: The relative change of outputs to put up with: of the
            model's on `probe`, or of the worst kernel's on random inputs.
        probe: Inputs of the model, to measure its outputs before and after.
        keep_base: Whether to keep a copy of the kernels on the host, so that
            `unmerge` can restore them; kernels of integers that become floats
            stay beside these.
        quantized: What becomes of kernels that are stored as int8 or int4:
            `"float"` makes those that are adapted float kernels again, exact
            and as large as before they were quantized; `"requantize"` rounds
            the sum to integers anew, which loses about as much as quantizing
            did at first, and may lose most of a small change: read the report.

    Returns:
        A `MergeReport` of what rounding changed; print it.

    Raises:
        ValueError: If there is no active adapter, if others rest beside it, if
            its values are not finite, if a kernel belongs to another layer as
            well, if kernels are quantized and `quantized` does not say what
            becomes of them, or if outputs change by more than `tolerance`. The
            model is left as it was.
    """
    if quantized not in (None, *QUANTIZED):
        raise ValueError(f"`quantized` is one of {QUANTIZED}. Received: quantized={quantized!r}")
    if tolerance is not None and not isinstance(tolerance, int | float):
        raise ValueError(f"`tolerance` is a number such as 1e-3. Received: tolerance={tolerance!r}")
    sites = require_adapter(model)
    holders = _holders(model)
    for site in sites:
        _check(site, holders, quantized)
    kernels = tuple(each for site in sites for each in _measure(site, quantized))
    report = MergeReport(kernels)
    if probe is None:
        _check_tolerance(report, tolerance)
    before = _outputs(model, probe)
    trained = [(w, owner) for _, _, w in own_weights(model) if (owner := trained_with(w))]
    record = Record([], trained)
    try:
        for site in sites:
            _fold(site, record, quantized)
        if before:
            report = MergeReport(kernels, output_change(before, _outputs(model, probe)))
            _check_tolerance(report, tolerance)
    except BaseException:
        _unfold(record)
        raise
    try:
        for weight, _ in trained:
            weight.trained_with = None
        restore_plain(model)
    except BaseException:
        _take_back(model, record)
        raise
    object.__setattr__(model, "merge_record", record if keep_base else None)
    return report


@searching_once()
def unmerge(model: keras.layers.Layer) -> None:
    """Takes the last `merge` back: the kernels' own bits, and the adapter beside them.

    Args:
        model: The model that was merged, in this process.

    Raises:
        ValueError: If it was not merged, was merged with `keep_base=False`,
            has adapters, or its kernels changed since. The model is left as it
            was.
    """
    record = vars(model).get("merge_record")
    if record is not None and adapted_sites(model):
        raise ValueError(
            "The model has got adapters since its `merge`: take them off with `delete_adapter` "
            "before `unmerge`. "
            f"Received: {model!r}"
        )
    if record is None:
        raise ValueError(
            "There is no merge to take back, or it was taken back already: `unmerge` works on the "
            "model object that `merge(model)` was called with, unless `keep_base=False`. "
            f"Received: {model!r}"
        )
    for merged in record.kernels:
        lora = getattr(merged.layer, "lora_enabled", False)
        if lora or _sha256(merged.layer) != merged.sha256:
            raise ValueError(
                "A kernel changed since the merge, by training or loading, which `unmerge` would "
                f"lose. Received: the kernel of `{merged.layer.path}`"
            )
    object.__setattr__(model, "merge_record", None)
    _take_back(model, record)


def _unfold(record: Record) -> None:
    for merged in record.kernels:
        merged.restore()
        carry_again(merged.layer, {merged.name: merged.adapter}, merged.name)


def _take_back(model: keras.layers.Layer, record: Record) -> None:
    _unfold(record)
    for merged in record.kernels:
        activate(merged.layer, merged.name)
    for weight, owner in record.trained:
        weight.trained_with = owner
    settle(model)


def _fold(site: Site, record: Record, quantized: str | None) -> None:
    layer = site.layer
    name, adapter, merged = layer.active_adapter, layer.adapter(), layer.merged_kernel()
    if holds_integers(layer) and quantized == "float":
        restore = make_float(layer, merged, float_policy(layer))
    else:
        weights = _weights_of_kernel(layer)
        values = [merged]
        if holds_integers(layer):
            stored = rounded_again(layer, merged).stored
            values = [stored[weight.name] for weight in weights]
        before = [to_host(weight) for weight in weights]
        try:
            _assign(weights, values)
        except BaseException:
            _assign(weights, before)
            raise
        restore = partial(_assign, weights, before)
    record.kernels.append(Merged(layer, name, adapter, restore, ""))
    record.kernels[-1] = record.kernels[-1]._replace(sha256=_sha256(layer))
    detach(layer, name)


def _weights_of_kernel(layer: keras.layers.Layer) -> list[keras.Variable]:
    return list(stored_weights(layer).values()) if holds_integers(layer) else [base_kernel(layer)]


def _assign(weights: list[keras.Variable], values: list[Any]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.assign(ops.cast(value, weight.dtype))


def _measure(site: Site, quantized: str | None) -> list[MergedKernel]:
    delta = site.layer.adapter().delta(base_value(site.layer))
    rounded, dtype = _rounded(site, quantized)
    delta, rounded = (site.view.to_matrix(to_numpy(k)) for k in (delta, rounded))
    if not np.isfinite(rounded).all():
        raise ValueError(
            f"The merged kernel does not fit into {dtype}: it has NaN or infinite values. Go "
            f"on with the adapter unmerged. Received: the adapter of `{site.path}`"
        )
    paths = (path for path, _ in site.matrices())
    return list(map(measure, paths, *map(site.view.split, (site.matrix(), delta, rounded))))


def _rounded(site: Site, quantized: str | None) -> tuple[Any, str]:
    """The merged kernel as it will be stored, as float32, and the dtype of that."""
    merged = site.layer.merged_kernel()
    if holds_integers(site.layer) and quantized == "requantize":
        return rounded_again(site.layer, merged).floats, site.dtype
    dtype = site.dtype
    if holds_integers(site.layer):
        dtype = keras.dtype_policies.get(float_policy(site.layer)).variable_dtype
    return ops.cast(ops.cast(merged, dtype), "float32"), dtype


def _outputs(model: keras.layers.Layer, probe: Any) -> list[np.ndarray]:
    """The outputs of a model on a probe, as float32 arrays."""
    if probe is None:
        return []
    outputs = keras.tree.flatten(model(probe, training=False))
    outputs = [to_numpy(ops.cast(y, "float32")) for y in outputs]
    if not sum(y.size for y in outputs):
        raise ValueError(
            "The model has no output on `probe`: give it a batch of inputs. "
            f"Received: outputs of the shapes {[y.shape for y in outputs]}"
        )
    return outputs


def _check_tolerance(report: MergeReport, tolerance: float | None) -> None:
    if tolerance is not None and not report.relative <= tolerance:
        raise ValueError(
            f"Merging would change outputs by {report.relative:.1e} of their norm, more than "
            "`tolerance`. Go on with the adapter unmerged, or merge a float32 copy of the "
            f"model. Received: tolerance={tolerance}\n{report}"
        )


def _holders(model: keras.layers.Layer) -> dict[int, list[keras.layers.Layer]]:
    """The layers that own each weight, in this model and those around it."""
    holders: dict[int, dict[int, keras.layers.Layer]] = {}
    for around in [model, *models_around(all_layers(model))]:
        for layer in all_layers(around):
            for weight in direct_weights(layer):
                holders.setdefault(id(weight), {})[id(layer)] = layer
    return {key: list(layers.values()) for key, layers in holders.items()}


def _check(site: Site, holders: dict[int, list[keras.layers.Layer]], quantized: str | None) -> None:
    """Raises where the adapter of a site cannot be merged."""
    names = sorted(adapters_of(site.layer))
    if len(names) > 1:
        raise ValueError(
            "Merging changes the kernels that the other adapters belong to. Take them off with "
            f"`delete_adapter(model, name)` first. Received: adapters {names} on `{site.path}`"
        )
    if site.layer.active_adapter is None:
        raise ValueError(
            "The adapter is not active: `set_adapter(model, name)` first. "
            f"Received: adapter {names[0]!r} on `{site.path}`"
        )
    if holds_integers(site.layer) and quantized is None:
        raise ValueError(
            "Say what becomes of quantized kernels: `quantized='float'` makes the adapted ones "
            "float kernels, `quantized='requantize'` rounds them to integers anew and tells what "
            "that loses; or load the adapter's file onto the float model and merge there. "
            f"Received: a kernel in {site.dtype}, `{site.path}`, quantized=None"
        )
    others = [x.path for x in holders[id(base_kernel(site.layer))] if x is not site.owner]
    if others:
        raise ValueError(
            f"The kernel of `{site.path}` also belongs to {', '.join(map(repr, others))}, which "
            "merging would change as well. Go on with the adapter unmerged. "
            f"Received: adapter {names[0]!r}"
        )
    for name, value in site.layer.adapter().trained.items():
        if not bool(ops.all(ops.isfinite(value))):
            raise ValueError(
                "The adapter has NaN or infinite values and cannot be merged. "
                f"Received: `{name}` of `{site.path}`"
            )


def _sha256(layer: keras.layers.Layer) -> str:
    digest = hashlib.sha256()
    for weight in _weights_of_kernel(layer):
        digest.update(np.ascontiguousarray(to_host(weight)).tobytes())
    return digest.hexdigest()
