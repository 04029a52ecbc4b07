"""Hooks that make Keras's saving aware of adapters; installed at import.

`keras.Model.save` keeps the adapters of a model that was built around adapted layers.
`keras.Model.load_weights` warns if a file holds adapters that the model does not have.
`set_weights` and `set_state_tree` (Orbax) fill adapters that were rebuilt from a configuration.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.carried import PREFIX, adapters_of
from keras_svd_adapters.adapters.own_values import OwnValues, own_values, stored_values_in
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.adapted_model import mark_adapted, models_of
from keras_svd_adapters.models.state.stored_kernels import mark_stored
from keras_svd_adapters.runtime.host_values import to_host_exact
from keras_svd_adapters.runtime.layer_attributes import walk
from keras_svd_adapters.runtime.warnings import warn

OWN = re.compile(r"/values_\d+_of_\w+$")


def install_saving_hooks() -> None:
    """Wrap the methods of `keras.Model` that save and load, once."""
    save, load = keras.Model.save, keras.Model.load_weights
    if getattr(save, "cares_for_adapters", False):
        return

    @wraps(load)
    def load_and_tell(self: keras.Model, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        result = load(self, filepath, *args, **kwargs)
        groups = set(groups_in(filepath))
        tell_of_adapters_left_out(self, filepath, groups)
        if _has_same_owners(self, filepath, groups):
            for own in stored_values_in(self):
                if own.is_held:  # a second layer with this weight may have loaded another value
                    own.weight.assign(ops.copy(own.value))
        return result

    keras.Model.save = _rooted(save)
    keras.Model.save.cares_for_adapters = True
    for module in (keras.saving, keras.models):
        module.save_model = _rooted(module.save_model)
    keras.Model.load_weights = load_and_tell
    keras.Model.get_weights = _up_to_date(keras.Model.get_weights)
    keras.Model.get_state_tree = _up_to_date(keras.Model.get_state_tree)
    keras.Model.set_weights = _noticed(keras.Model.set_weights, of_all=True)
    keras.Model.set_state_tree = _noticed(keras.Model.set_state_tree, of_all=False)


def _rooted(save: Any) -> Any:
    """Wrap a function that saves a whole model: the configuration includes its adapters.

    It also includes the storage of its kernels.
    """

    @wraps(save)
    def save_all(model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        for root in models_of(adapted_sites(model)):
            mark_adapted(root)
        mark_stored(model)
        return save(model, *args, **kwargs)

    return save_all


def _noticed(assign: Any, of_all: bool) -> Any:
    """Wrap a method that assigns weights; afterwards, empty adapters check for their values."""

    @wraps(assign)
    def assign_and_notice(self: keras.Model, *args: Any, **kwargs: Any) -> None:
        assign(self, *args, **kwargs)
        for own in stored_values_in(self):
            if own.is_held:
                _follow_holder(own)
        for site in adapted_sites(self):
            for adapter in adapters_of(site.layer).values():
                adapter.detect_values(of_all)

    return assign_and_notice


def _up_to_date(read: Any) -> Any:
    """Wrap a method that returns all weights: stored values of the active adapter are current."""

    @wraps(read)
    def update_and_read(self: keras.Model, *args: Any, **kwargs: Any) -> Any:
        for own in stored_values_in(self):
            if own.is_held:
                own.value.assign(ops.copy(own.weight))
        return read(self, *args, **kwargs)

    return update_and_read


def _follow_holder(own: OwnValues) -> None:
    """After an assignment of all weights, give a weight the values of the adapter that it holds.

    The values may be of a time when the weight held those of another adapter.
    """
    value, every = to_host_exact(own.weight), own_values(own.weight).values()
    if any(np.array_equal(value, to_host_exact(each.value)) for each in every):
        own.weight.assign(ops.copy(own.value))


def _has_same_owners(model: keras.Model, filepath: Any, groups: set[str]) -> bool:
    """Whether the same adapters have values of weights in a file; warn if others have."""
    there = {key for key, chain in walk(model) if isinstance(chain[-1], OwnValues)}
    found = {key for key in groups if OWN.search(key)}
    if differ := sorted(there ^ found):
        warn(
            "In the file and in the model, other adapters train the same weight, so it has the "
            "values of the adapter that was active in the file. Enable the adapters as before "
            "saving, or `load_adapter` the file of each. Received: "
            f"{str(filepath)!r}, {', '.join(differ[:4])}"
        )
    return bool(there) and not differ


def tell_of_adapters_left_out(model: keras.Model, filepath: Any, groups: set[str]) -> None:
    """Warn if a weight file holds adapters that a model lacks: Keras skips these silently."""
    if not (found := {key for key in groups if key.rpartition("/")[2].startswith(PREFIX)}):
        return
    there = {key for key, _ in walk(model)}
    if left_out := sorted(found - there):
        names = sorted({key.rpartition("/")[2].removeprefix(PREFIX) for key in left_out})
        warn(
            f"The file holds adapters {names} of {len(left_out)} layers, which this model does "
            "not have: those were left out. Call `keras_svd_adapters.enable(model, method, "
            f"name=...)` as before saving, then `load_weights`. Received: {str(filepath)!r}, "
            f"{left_out[0]}"
        )


def groups_in(filepath: Any) -> Iterator[str]:
    """Yield the paths of the layers in a file of weights, its shards, or a whole model."""
    path = Path(os.fspath(filepath))
    if path.name.endswith(".weights.json") and path.exists():
        shards = keras.tree.flatten(json.loads(path.read_text()).get("weight_map", {}))
        for name in sorted(set(shards)):
            yield from groups_in(path.parent / name)
    elif path.suffix == ".h5" and path.exists():
        yield from _groups_in_h5(path)
    elif path.suffix == ".keras" and path.exists():
        with zipfile.ZipFile(path) as archive:
            for name in (name for name in archive.namelist() if name.endswith(".weights.h5")):
                with archive.open(name) as member:
                    yield from _groups_in_h5(member)


def _groups_in_h5(source: Any) -> set[str]:
    found: set[str] = set()
    with h5py.File(source) as file:
        file.visit(found.add)
    return found
