"""Load the adapters of a KerasHub preset."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras import ops

from keras_svd_adapters.adapters.attachment import activate
from keras_svd_adapters.adapters.own_values import hold, own_values, stored_of_holder, trained_with
from keras_svd_adapters.files.archive import AdapterFileError
from keras_svd_adapters.files.load import load_adapter
from keras_svd_adapters.files.presets.saving import FOLDER, FORMAT_VERSION, INDEX, weights_outside
from keras_svd_adapters.models.assignment import check_name
from keras_svd_adapters.models.refresh import sync_model, train_and_sync
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.models.state.weighted_sets import restore_weights
from keras_svd_adapters.runtime.host_values import to_host_exact
from keras_svd_adapters.runtime.warnings import warn


def load_adapters(model: Any, preset: Any, strict: bool = True) -> None:
    """Attach the adapters of a preset to the model that was made from it.

    Args:
        model: A backbone or a task with the weights of the preset.
        preset: The preset's directory or address.
        strict: As in `load_adapter`.
    """
    find = _finder(preset)
    index, held, weights = _read_index(find(INDEX), preset)
    holders = {
        name: holder
        for name, told in index.items()
        if (holder := _find_holder(model, told["of"], name, preset)) is not None
    }
    kinds = {index[name]["of"]: holder for name, holder in holders.items()}
    plain = [
        (weight, held[kind][key], to_host_exact(weight))
        for kind, holder in kinds.items()
        for key, _, weight in base_weights(holder)
        if key in held.get(kind, {})
    ]
    for name, holder in holders.items():
        for site in adapted_sites(model):
            activate(site.layer, None)  # adapters of other layers may train the same weight
        load_adapter(holder, _require(find(f"{FOLDER}/{name}.keras"), name, preset), name, strict)
        if not strict and holder is model:  # new weights must train
            train_and_sync(model, name, weights_outside(model, model.backbone))
    switched = {}
    for name, holder in holders.items():
        for site in adapted_sites(holder, name):
            is_active, was = site.key in index[name]["active"], name in site.layer.active_adapters
            if is_active != was:
                activate(site.layer, name if is_active else None)
                switched[id(holder)] = holder
    for kind, holder in sorted(kinds.items(), key=lambda each: each[1] is model):
        restore_weights(holder, weights.get(kind, []))
        if weights.get(kind):
            switched[id(holder)] = holder
    for holder in switched.values():
        sync_model(holder)
    for weight, name, value in plain:
        _hold(weight, name, value)


def _hold(weight: Any, name: str | None, plain: Any) -> None:
    """Give a weight of several adapters the values that it held when the preset was saved."""
    if name in own_values(weight) and trained_with(weight) != name:
        hold(weight, name)
    elif name is None and (stored := stored_of_holder(weight)) is not None:
        stored.assign(ops.copy(weight))
        weight.assign(plain)
        weight.trained_with = None


def _find_holder(model: Any, kind: str, name: str, preset: Any) -> Any:
    """Return the part of a model that an adapter of the preset belongs to, or `None`."""
    if kind == "backbone":
        return getattr(model, "backbone", model)
    if kind == type(model).__name__:
        return model
    warn(
        f"The preset's adapter {name!r} belongs to a {kind} as a whole and was left out: this "
        f"model is only its backbone. `{kind}.from_preset` loads it. Received: "
        f"{type(model).__name__}.from_preset({str(preset)!r})"
    )
    return None


def _read_index(
    path: str | None, preset: Any
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the index of a preset: adapters, what weights held, and weights of adapters.

    The adapters are by name, the others by class of the model that has the adapters.
    """
    if path is None:
        return {}, {}, {}
    try:
        index = json.loads(Path(path).read_text())
        if (version := index["format_version"]) != FORMAT_VERSION:
            raise AdapterFileError(
                f"`{INDEX}` of the preset has the format version {version!r}, and this package "
                f"reads {FORMAT_VERSION}: upgrade keras_svd_adapters. Received: {str(preset)!r}"
            )
        adapters = index["adapters"]
        for name, told in adapters.items():
            check_name(name)
            told["of"], list(told["active"])
        held = index.get("held", {})
        for of_kind in held.values():
            dict(of_kind)
        weights = index.get("weights", {})
        for group in (group for groups in weights.values() for group in groups):
            dict(group["weights"]), list(group["train"]), list(group["sites"])
    except AdapterFileError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterFileError(
            f"`{INDEX}` of the preset is not well formed: {error}. Save the model again with "
            f"`save_to_preset`, or remove the file. Received: {str(preset)!r}"
        ) from None
    return dict(adapters), held, weights


def _require(path: str | None, name: str, preset: Any) -> str:
    if path is None:
        raise AdapterFileError(
            f"`{INDEX}` of the preset names the adapter {name!r}, and `{FOLDER}/{name}.keras` is "
            f"missing. Received: {str(preset)!r}"
        )
    return path


def _finder(preset: Any) -> Callable[[str], str | None]:
    """Return a function that finds preset files, in the directory or on the hub of its address.

    Names without a scheme are KerasHub's own presets, which hold plain models.
    """

    def in_directory(name: str) -> str | None:
        path = os.path.join(preset, name)
        return path if os.path.exists(path) else None

    def on_hub(name: str) -> str | None:
        from keras_hub.src.utils.preset_utils import get_file

        try:
            return str(get_file(preset, name))
        except FileNotFoundError:
            return None

    if os.path.isdir(preset):
        return in_directory
    return on_hub if "://" in str(preset) else lambda name: None
