"""Save adapter files: the trained values, without the kernels of the model."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.own_values import owners_of, trained_with, variable_of
from keras_svd_adapters.files.archive import Contents, warn_of_nan, write_archive
from keras_svd_adapters.files.fingerprints import kernel_fingerprint, kernel_sample
from keras_svd_adapters.files.hubs.address import parse_address
from keras_svd_adapters.files.matching import Path, value_key
from keras_svd_adapters.files.matching_values import factor_samples
from keras_svd_adapters.files.model_card import model_card
from keras_svd_adapters.models.named_adapters import only_adapter, require_adapter, require_values
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.adapted_model import PACKAGE
from keras_svd_adapters.models.state.array_sharing import (
    reproducible_from_seed,
    single_shared_arrays,
)
from keras_svd_adapters.models.state.trained_weights import base_weights, weights_with
from keras_svd_adapters.runtime.host_values import to_float_array
from keras_svd_adapters.runtime.progress import print_line
from keras_svd_adapters.runtime.warnings import warn


@keras.saving.register_keras_serializable(PACKAGE, "AdapterFile")
class AdapterFile:
    """Name of the file kind in its configuration, for users who load the file as a model."""

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        raise ValueError(
            "This file holds an adapter, not a whole model: build its base model, then "
            "`keras_svd_adapters.load_adapter(model, path)`. Received: an adapter file"
        )


def save_adapter(
    model: keras.layers.Layer,
    filepath: Path,
    name: str | None = None,
    include_basis: bool = False,
    full_hash: bool = False,
) -> None:
    """Save the values of an adapter, a few hundred kB.

    The file holds every value that trains, the method, and fingerprints of the
    adapted kernels. It is written in one step.

    Args:
        model: An adapted model.
        filepath: Path of the file, such as `"pirate.keras"`, or an address:
            `"hf://user/name"` on the Hugging Face hub, or
            `"kaggle://user/model/framework/variation"`. The hub also gets a
            model card. A repository that is new there is private.
        name: Name of the adapter, if there are several.
        include_basis: Whether the file holds the frozen factors as well. Such a
            file is as large as the factors. It loads without a decomposition, and
            does not depend on the rounding of another machine.
        full_hash: Whether the fingerprints include a hash of every value of the
            kernels, instead of some thousands alone.

    Raises:
        ValueError: If there is no such adapter, or several and no `name`.
        PermissionError: If the hub does not let you write.
        ConnectionError: If the hub cannot be reached.
    """
    name = name or only_adapter(model)
    sites = require_adapter(model, name)
    parse_address(filepath)
    require_values(model, f"to save {str(filepath)!r}")
    config: dict[str, Any] = {"sites": {}, "shared": {}, "train": []}
    values: dict[str, np.ndarray] = {}
    holders: dict[int, str] = {}
    for site in sites:
        adapter = adapters_of(site.layer)[name]
        config["sites"][site.key] = {
            "method": adapter.method.name,
            "config": adapter.method.get_config(),
            "kernel": kernel_fingerprint(matrix := site.matrix(), site.dtype, full_hash),
        }
        if include_basis:
            config["sites"][site.key]["form"] = adapter.form
        if adapter.tied is not None:
            holder = holders.setdefault(id(adapter.tied), site.key)
            config["sites"][site.key]["tied_to"] = holder
        arrays = _saved_arrays(adapter, include_basis) | {"sample_K": kernel_sample(matrix)}
        for array, value in arrays.items():
            values[value_key(config["sites"], site.key, adapter.method, array)] = value
    for method, shared in single_shared_arrays(sites, name).items():
        config["shared"][method] = {array: list(shape) for array, shape in shared.shapes.items()}
        if not (_only_seed(sites, name) and reproducible_from_seed(shared)):
            for array, variable in shared.arrays.items():
                values[f"shared/{method}/{array}"] = to_float_array(variable)
    for key, _, weight in weights_with(model, name):
        config["train"].append(key)
        values[f"train/{key}"] = to_float_array(variable_of(weight, name))
    others = sorted(
        {
            owner
            for _, _, weight in base_weights(model)
            if name not in owners_of(weight) and (owner := trained_with(weight))
        }
    )
    if others:
        warn(
            f"Weights that trained with {', '.join(map(repr, others))} also change the model's "
            f"outputs, and they are not in this file, which holds {name!r}: save that adapter "
            f"too, and load both. Received: {str(filepath)!r}"
        )
    warn_of_nan(values, filepath)
    identity = {"module": PACKAGE, "class_name": "AdapterFile", "config": config}
    identity["registered_name"] = f"{PACKAGE}>AdapterFile"
    card = partial(model_card, model, str(filepath), Contents(config, values))
    if where := write_archive(filepath, Contents(identity, values), card):
        print_line(where, "auto")


def _only_seed(sites: list[Site], name: str) -> bool:
    """Return whether no adapter requires its shared arrays in the file."""
    adapters = [adapters_of(site.layer)[name] for site in sites]
    return not any(x.shared and x.saved for a in adapters for x in a.declared.values())


def _saved_arrays(adapter: Adapter, include_basis: bool) -> dict[str, np.ndarray]:
    """Return trained values, frozen values that the base cannot restore, and fingerprints."""
    if include_basis:
        return {name: to_float_array(v) for name, v in adapter.arrays.items()}
    declared = adapter.declared
    saved = {
        name: to_float_array(v) for name, v in adapter.arrays.items() if declared[name].in_file
    }
    return saved | factor_samples(adapter)
