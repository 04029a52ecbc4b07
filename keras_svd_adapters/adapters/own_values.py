"""Values that each of several adapters has for one weight outside the adapters, such as a head.

The weight holds the values of one adapter. A child of the weight's layer stores those of each
adapter; the child of the adapter whose values the weight holds is out of date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.mode import Mode, current_mode, in_mode
from keras_svd_adapters.adapters.per_sample import AdapterIds, samples_of
from keras_svd_adapters.adapters.stored_arrays import StoredArrays
from keras_svd_adapters.kernels.placement import mirrored_scope, sharding_of
from keras_svd_adapters.runtime.host_values import to_host_exact
from keras_svd_adapters.runtime.name_scopes import name_scopes


class OwnValues(StoredArrays):
    """Layer that stores the values of one adapter for one weight.

    Args:
        weight: The weight.
        owner: Name of the adapter.
        has_values: Whether the adapter starts with the values that the weight has now, or
            without values, which are then loaded from a file.
    """

    def __init__(self, weight: keras.Variable, owner: str, has_values: bool = True):
        with name_scopes(weight.path), mirrored_scope(weight):
            super().__init__(dtype=weight.dtype, name=f"values_of_{owner}")
            value = to_host_exact(weight) if has_values else 0
            sharding = sharding_of(weight)
            layout = sharding if hasattr(sharding, "spec") else None
            self.add_array("value", tuple(weight.shape), weight.dtype, value, layout=layout)
        self.has_values = has_values
        object.__setattr__(self, "weight", weight)
        self.owner = owner
        self.built = True

    def array_names(self) -> Iterable[str]:
        return ("value",)

    def save_own_variables(self, store: Any) -> None:
        store["value"] = variable_of(self.weight, self.owner)

    def load_own_variables(self, store: Any) -> None:
        if not store.keys() and self.has_values:
            return
        if set(store.keys()) != {"value"}:
            raise ValueError(
                f"The saved weights lack the values of the adapter {self.owner!r} for "
                f"`{self.weight.path}`, which it trains. Received: {sorted(store.keys())}"
            )
        variable_of(self.weight, self.owner).assign(store["value"])
        self.has_values = True


def trained_with(weight: keras.Variable) -> str | None:
    """Return the name of the adapter that a weight of the model trains with.

    If several adapters train the weight, it is the adapter whose values the weight holds.
    """
    return getattr(weight, "trained_with", None)


def own_values(weight: keras.Variable) -> dict[str, OwnValues]:
    """Return the stored values of each adapter that trains a weight, if there were several."""
    return getattr(weight, "own_values", {})


def owners_of(weight: keras.Variable) -> tuple[str, ...]:
    """Return the names of the adapters that train a weight."""
    owner = trained_with(weight)
    return tuple(own_values(weight)) or (() if owner is None else (owner,))


def variable_of(weight: keras.Variable, name: str | None) -> keras.Variable:
    """Return the variable with the values that a weight has for an adapter."""
    own = own_values(weight)
    return weight if name not in own or trained_with(weight) == name else own[name].value


def hold(weight: keras.Variable, name: str) -> None:
    """Give a weight the values of one of its adapters; store those that it held."""
    own, before = own_values(weight), trained_with(weight)
    if before in own:
        own[before].value.assign(ops.copy(weight))
    weight.assign(ops.copy(own[name].value))
    weight.trained_with = name


class OwnValuesLayer:
    """Mixin of a layer with such weights: each sample of a batch has those of its adapter."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        mode, call = current_mode(), super().call  # type: ignore[misc]
        if mode.ids is None:
            return call(*args, **kwargs)
        return _call_for_each(self, partial(call, *args, **kwargs), mode, mode.ids)


def _call_for_each(layer: Any, call: Callable[[], Any], mode: Mode, ids: AdapterIds) -> Any:
    """Call a layer once for all samples whose adapters have the same values of its weights."""
    weights = [weight for weight in layer.weights if own_values(weight)]
    groups: dict[tuple[int, ...], list[str | None]] = {}
    for name in ids.names:
        variables = tuple(id(variable_of(weight, name)) for weight in weights)
        groups.setdefault(variables, []).append(name)
    if ids.probe_rows or groups.keys() == {tuple(map(id, weights))}:
        y = call()
        keras.tree.map_structure(partial(samples_of, chosen=ids), y)
        return y
    y = None
    for names in groups.values():
        same = tuple(name if name in names else names[0] for name in ids.names)
        values = [(v, ops.convert_to_tensor(v)) for v in layer.variables]
        values += [(w, ops.convert_to_tensor(variable_of(w, names[0]))) for w in weights]
        with in_mode(replace(mode, ids=replace(ids, names=same))), keras.StatelessScope(values):
            found = call()
        here = np.array([name in names for name in ids.names])
        y = found if y is None else keras.tree.map_structure(partial(_where, here, ids), found, y)
    return y


def _where(here: np.ndarray, ids: AdapterIds, found: Any, y: Any) -> Any:
    """Return rows of `found` for the samples whose adapter is `here`, of `y` for the others."""
    samples = samples_of(found, ids)
    mask = ops.reshape(ops.take(here, ids.ids, axis=0), (-1,) + (1,) * (len(samples.shape) - 1))
    return ops.reshape(ops.where(mask, samples, samples_of(y, ids)), ops.shape(found))
