"""What Keras's own saving must know of adapters, told once at import.

`keras.Model.save` keeps the adapters of a model that was built around adapted layers, and
`keras.Model.load_weights` says so where a file holds adapters that the model does not have.
`set_weights` and `set_state_tree` (Orbax) fill adapters that were rebuilt from a configuration.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import h5py
import keras

from keras_svd_adapters.host import PREFIX, adapters_of
from keras_svd_adapters.root import make_root, roots
from keras_svd_adapters.site import adapted_sites


def care_for_checkpoints() -> None:
    """Wraps the methods of `keras.Model` that save and load, once."""
    save, load = keras.Model.save, keras.Model.load_weights
    if getattr(save, "cares_for_adapters", False):
        return

    @wraps(save)
    def save_all(self: keras.Model, *args: Any, **kwargs: Any) -> Any:
        for root in roots(adapted_sites(self)):
            make_root(root)
        return save(self, *args, **kwargs)

    @wraps(load)
    def load_and_tell(self: keras.Model, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        result = load(self, filepath, *args, **kwargs)
        tell_of_adapters_left_out(self, filepath)
        return result

    save_all.cares_for_adapters = True  # type: ignore[attr-defined]
    keras.Model.save = save_all
    keras.Model.load_weights = load_and_tell
    keras.Model.set_weights = _noticed(keras.Model.set_weights)
    keras.Model.set_state_tree = _noticed(keras.Model.set_state_tree)


def _noticed(assign: Any) -> Any:
    """A method that assigns weights, after which empty adapters look whether theirs came."""

    @wraps(assign)
    def assign_and_notice(self: keras.Model, *args: Any, **kwargs: Any) -> None:
        assign(self, *args, **kwargs)
        for site in adapted_sites(self):
            for adapter in adapters_of(site.layer).values():
                adapter.notice_values()

    return assign_and_notice


def tell_of_adapters_left_out(model: keras.Model, filepath: Any) -> None:
    """Warns where a weight file holds adapters that a model lacks: Keras skips them in silence."""
    there = {name for site in adapted_sites(model) for name in adapters_of(site.layer)}
    if left_out := sorted(set(adapters_in(filepath)) - there):
        warnings.warn(
            f"The file holds adapters {left_out}, which this model does not have: only the base "
            "weights were loaded. Type `keras_svd_adapters.enable(model, method, name=...)` as "
            f"when it was saved, before `load_weights`. Received: {str(filepath)!r}",
            stacklevel=3,
        )


def adapters_in(filepath: Any) -> Iterator[str]:
    """The names of the adapters in a `.weights.h5` file, or in the shards of `.weights.json`."""
    path = Path(os.fspath(filepath))
    if path.name.endswith(".weights.json") and path.exists():
        shards = keras.tree.flatten(json.loads(path.read_text()).get("weight_map", {}))
        for name in sorted(set(shards)):
            yield from adapters_in(path.parent / name)
    elif path.suffix == ".h5" and path.exists():
        found: set[str] = set()
        with h5py.File(path) as file:
            file.visit(lambda name: found.update(_adapter_names(name)))
        yield from found


def _adapter_names(name: str) -> set[str]:
    return {part[len(PREFIX) :] for part in name.split("/") if part.startswith(PREFIX)}
