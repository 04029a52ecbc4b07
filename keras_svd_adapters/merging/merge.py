"""Merge adapters into the kernels that they adapt, and undo the merge."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.own_values import own_values, trained_with
from keras_svd_adapters.merging.merge_checks import _active_sites, _check, _holders
from keras_svd_adapters.merging.merge_record import (
    MergeRecord,
    _fold,
    _restore_kernels,
    _sha256,
    _undo_merge,
)
from keras_svd_adapters.merging.merge_report import MergeReport, _measure, output_change
from keras_svd_adapters.models.named_adapters import require_adapter
from keras_svd_adapters.models.refresh import restore_base_model, sync_model
from keras_svd_adapters.models.sites.search import adapted_sites, adapter_names
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.models.state.weight_owners import move_last, weights_of
from keras_svd_adapters.runtime.host_values import to_float_array
from keras_svd_adapters.runtime.live_models import with_models_around

QUANTIZED = ("float", "requantize")


@changes_model
def merge(
    model: keras.layers.Layer,
    tolerance: float | None = None,
    probe: Any = None,
    keep_base: bool = True,
    quantized: str | None = None,
) -> MergeReport:
    """Merge the active adapter into the kernels, so that inference has no overhead.

    The update is computed in float32, added to the kernel and rounded once. If several
    adapters with weights are active, it is the weighted sum of theirs. The
    model is then a plain Keras model: it saves, generates and exports without
    this package. Its weights train again as they did before `enable`.

    Other adapters stay on the model, inactive and frozen. They were trained on the
    kernels without the merged one, so `set_adapter` activates them after `unmerge` only.

    Args:
        model: An adapted model.
        tolerance: Largest accepted relative change of outputs: of the model's
            outputs on `probe`, or else of the worst kernel's outputs on random
            inputs.
        probe: Inputs of the model, to measure its outputs before and after.
        keep_base: Whether to keep a copy of the kernels on the host, so that
            `unmerge` can restore them. Integer kernels that become float
            kernels stay in memory together with the float kernels.
        quantized: Treatment of kernels that are stored as int8, int4 or NF4.
            `"float"` makes the adapted ones float kernels again: exact, and as
            large as before they were quantized. `"requantize"` rounds the sum
            to integers again. This loses about as much as the first
            quantization, and may lose most of a small update: read the report.

    Returns:
        A `MergeReport` of the rounding error; print it.

    Raises:
        ValueError: If there is no active adapter, kernels have other adapters
            as well and `keep_base` is false, or values are not finite. Also if a kernel
            belongs to another layer too, kernels are quantized and `quantized`
            is not given, or outputs change by more than `tolerance`. The model
            stays unchanged.
    """
    if quantized not in (None, *QUANTIZED):
        raise ValueError(
            f"`quantized` must be one of {QUANTIZED}. Received: quantized={quantized!r}"
        )
    if tolerance is not None and not isinstance(tolerance, int | float):
        raise ValueError(
            f"`tolerance` must be a number such as 1e-3. Received: tolerance={tolerance!r}"
        )
    everywhere = require_adapter(model)
    sites = _active_sites(everywhere, keep_base)
    holders = _holders(model)
    for site in sites:
        _check(site, holders, quantized)
    kernels = tuple(each for site in sites for each in _measure(site, quantized))
    report = MergeReport(kernels)
    if probe is None:
        _check_tolerance(report, tolerance)
    before = _outputs(model, probe)
    outside = weights_of(with_models_around(model))
    trained = [(weight, owner) for weight in outside if (owner := trained_with(weight))]
    others = [
        adapter
        for site in everywhere
        for name, adapter in adapters_of(site.layer).items()
        if name not in site.layer.active_adapters
    ]
    record = MergeRecord([], trained, others)
    try:
        for site in sites:
            _fold(site, record, quantized)
        if before:
            report = MergeReport(kernels, output_change(before, _outputs(model, probe)))
            _check_tolerance(report, tolerance)
    except BaseException:
        _restore_kernels(record)
        move_last(with_models_around(model))
        raise
    try:
        staying = adapter_names(adapted_sites(model))
        for weight, owner in trained:
            if owner not in staying and not own_values(weight):
                weight.trained_with = None
        sync_model(model) if staying else restore_base_model(model)
    except BaseException:
        _undo_merge(model, record)
        raise
    object.__setattr__(model, "merge_record", record if keep_base else None)
    return report


@changes_model
def unmerge(model: keras.layers.Layer) -> None:
    """Undo the last `merge`: restore the kernels bit for bit and reattach the adapter.

    Args:
        model: The model that was merged, in this process.

    Raises:
        ValueError: If the model was not merged, was merged with
            `keep_base=False`, has adapters, or its kernels changed since the
            merge. The model stays unchanged.
    """
    record = vars(model).get("merge_record")
    if record is not None and _has_new_adapters(model, record):
        raise ValueError(
            "The model received adapters after its `merge`: remove them with `delete_adapter` "
            f"before `unmerge`. Received: {model!r}"
        )
    if record is None:
        raise ValueError(
            "There is no merge to undo, or it was undone already: `unmerge` works on the model "
            "object that `merge(model)` was called with, unless `keep_base=False`. Received: "
            f"{model!r}"
        )
    for merged in record.kernels:
        lora = getattr(merged.layer, "lora_enabled", False)
        if lora or _sha256(merged.layer) != merged.sha256:
            raise ValueError(
                "A kernel changed after the merge, by training or loading, and `unmerge` would "
                f"lose that change. Received: the kernel of `{merged.layer.path}`"
            )
    object.__setattr__(model, "merge_record", None)
    _undo_merge(model, record)


def _has_new_adapters(model: keras.layers.Layer, record: MergeRecord) -> bool:
    """Whether a model has adapters that it did not have when it was merged."""
    before = set(map(id, record.others))
    now = (adapter for s in adapted_sites(model) for adapter in adapters_of(s.layer).values())
    return any(id(adapter) not in before for adapter in now)


def _outputs(model: keras.layers.Layer, probe: Any) -> list[np.ndarray]:
    """Return the outputs of a model on a probe, as float32 arrays."""
    if probe is None:
        return []
    outputs = keras.tree.flatten(model(probe, training=False))
    outputs = [to_float_array(ops.cast(y, "float32")) for y in outputs]
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
            "`tolerance`. Leave the adapter unmerged, or merge a float32 copy of the model. "
            f"Received: tolerance={tolerance}\n{report}"
        )
