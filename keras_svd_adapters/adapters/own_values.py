"""Values that each of several adapters has for one weight outside the adapters, such as a head.

The weight holds the values of one adapter. A child of the weight's layer stores those of each
adapter; the child of the adapter whose values the weight holds is out of date.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.class_mixing import add_mixin, remove_mixin
from keras_svd_adapters.adapters.mode import Mode, current_mode, in_mode
from keras_svd_adapters.adapters.per_sample import AdapterIds, samples_of
from keras_svd_adapters.adapters.refusals import refuse_per_sample
from keras_svd_adapters.adapters.stored_arrays import StoredArrays
from keras_svd_adapters.kernels.placement import mirrored_scope, sharding_of
from keras_svd_adapters.runtime.host_values import to_host_exact
from keras_svd_adapters.runtime.keras_private.layers import attach_child, detach_child
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

    def attach_to(self, layer: keras.layers.Layer, attribute: str) -> None:
        """Become a child of the layer of the weight, under this attribute."""
        attach_child(layer, attribute, self)
        self._layer, self.attribute = weakref.ref(layer), attribute

    def detach(self) -> None:
        """Undo `attach_to`."""
        detach_child(self.layer(), self.attribute)

    def layer(self) -> keras.layers.Layer:
        """Return the layer of the weight; saving would follow an attribute."""
        layer = self._layer()
        assert layer is not None
        return layer

    def array_names(self) -> Iterable[str]:
        return ("value",)

    def save_own_variables(self, store: Any) -> None:
        store["value"] = variable_of(self.weight, self.owner)

    def load_own_variables(self, store: Any) -> None:
        # The file's weight itself has the values of the adapter that was active in the model there.
        if not store.keys() and self.has_values:
            return
        if set(store.keys()) != {"value"}:
            raise ValueError(
                f"The saved weights lack the values of the adapter {self.owner!r} for "
                f"`{self.weight.path}`, which it trains. Received: {sorted(store.keys())}"
            )
        self.value.assign(store["value"])
        if trained_with(self.weight) == self.owner:
            self.weight.assign(store["value"])
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


def stored_of_holder(weight: keras.Variable) -> keras.Variable | None:
    """Return the stored values of the adapter whose values a weight holds, if there are any."""
    own = own_values(weight).get(trained_with(weight) or "")
    return None if own is None else own.value


def hold(weight: keras.Variable, name: str) -> None:
    """Give a weight the values of one of its adapters; store those that it held."""
    if (before := stored_of_holder(weight)) is not None:
        before.assign(ops.copy(weight))
    weight.assign(ops.copy(own_values(weight)[name].value))
    weight.trained_with = name


_computing: ContextVar[frozenset[int]] = ContextVar("_computing", default=frozenset())


class WatchedVariable:
    """Mixin of a weight with values for several adapters while a model is tried with a batch."""

    @property
    def value(self) -> Any:
        mode = current_mode()
        if mode.ids is not None and id(self) not in _computing.get():
            refuse_per_sample(f"{self.path}, read outside of its layer")  # type: ignore[attr-defined]
        return super().value  # type: ignore[misc]


@contextmanager
def watched(weights: Iterable[keras.Variable]) -> Iterator[None]:
    """Context manager: reading such a weight outside the `call` of its layer raises an error."""
    with ExitStack() as stack:
        for weight in weights:
            add_mixin(weight, WatchedVariable)
            stack.callback(remove_mixin, weight, WatchedVariable)
        yield


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
    if getattr(layer, "stateful", False):
        refuse_per_sample(f"{layer.path}, whose state would be lost")
    token = _computing.set(_computing.get() | set(map(id, weights)))
    try:
        return _of_groups(layer, call, mode, ids, weights)
    finally:
        _computing.reset(token)


def _of_groups(
    layer: Any,
    call: Callable[[], Any],
    mode: Mode,
    ids: AdapterIds,
    weights: list[keras.Variable],
) -> Any:
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
