"""Save KerasHub presets of adapted models: the preset of the plain model, plus adapter files.

KerasHub alone reads the base model; with this package, `from_preset` restores the adapters. An
index, `adapters.json`, names the adapters, and the files `adapters/<name>.keras` hold them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from keras_svd_adapters.adapters.frozen_variables import is_frozen_variable
from keras_svd_adapters.adapters.own_values import owners_of
from keras_svd_adapters.adapters.refusals import refuse_to_save_pool
from keras_svd_adapters.files.save import save_adapter
from keras_svd_adapters.models.named_adapters import (
    attached_names,
    require_adapter,
    require_values,
)
from keras_svd_adapters.models.sites.search import adapted_sites, adapter_names
from keras_svd_adapters.models.state.model_config import describe_holders
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.models.state.weighted_sets import describe_weights
from keras_svd_adapters.runtime.keras_private.layers import all_layers

INDEX, FOLDER, FORMAT_VERSION = "adapters.json", "adapters", 1


@contextmanager
def adapters_beside(model: Any, folder: Path, include_basis: bool = False) -> Iterator[None]:
    """Context manager: save the adapters of a model next to its plain preset.

    The index is written first and the adapter files last, so that loading detects a save that
    was interrupted.
    """
    require_values(model, f"to save the preset {str(folder)!r}")
    names = adapter_names(sites := adapted_sites(model))
    for name in names:
        if name not in attached_names(sites):
            refuse_to_save_pool(name)
        require_adapter(model, name)
    forget_adapters(folder)
    holders = {name: _holder(model, name) for name in names}
    if holders:
        index = {name: _describe(*holder, name) for name, holder in holders.items()}
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        held = {kind: describe_holders(holder) for holder, kind in holders.values()}
        told = {"format_version": FORMAT_VERSION, "adapters": index, "held": held}
        told["weights"] = {kind: describe_weights(holder) for holder, kind in holders.values()}
        (folder / INDEX).write_text(json.dumps(told, indent=4))
    yield
    for name, (holder, _) in holders.items():
        save_adapter(holder, folder / FOLDER / f"{name}.keras", name, include_basis)


def forget_adapters(folder: Path) -> None:
    """Delete the adapters of the model that was saved in this folder before."""
    if (folder / INDEX).exists():
        for old in (folder / FOLDER).glob("*.keras"):
            old.unlink()
        (folder / INDEX).unlink()


def _describe(holder: keras.layers.Layer, kind: str, name: str) -> dict[str, Any]:
    sites = adapted_sites(holder, name)
    return {"of": kind, "active": [s.key for s in sites if name in s.layer.active_adapters]}


def _holder(model: Any, name: str) -> tuple[keras.layers.Layer, str]:
    """Return the smallest part with everything that an adapter trains: backbone or task."""
    backbone = getattr(model, "backbone", model)
    inside = {id(layer) for layer in all_layers(backbone)}
    outside = weights_outside(model, backbone)
    chosen = [w for w in outside if is_frozen_variable(w) or name in owners_of(w)]
    if not chosen and all(id(site.layer) in inside for site in adapted_sites(model, name)):
        return backbone, "backbone"
    return model, type(model).__name__


def weights_outside(model: Any, backbone: Any) -> list[keras.Variable]:
    """Return the weights of a task that are not in its backbone."""
    inside = {id(weight) for weight in backbone.weights}
    return [weight for _, _, weight in base_weights(model) if id(weight) not in inside]
