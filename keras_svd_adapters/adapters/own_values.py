"""Values that each of several adapters has for one weight outside the adapters, such as a head.

The weight holds the values of one adapter. A child of the weight's layer stores those of each
adapter; the child of the adapter whose values the weight holds is out of date.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.adapters.stored_arrays import StoredArrays
from keras_svd_adapters.kernels.placement import mirrored_scope, sharding_of
from keras_svd_adapters.runtime.host_values import to_host_exact
from keras_svd_adapters.runtime.keras_private.layers import all_layers, attach_child, detach_child
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

    @property
    def is_held(self) -> bool:
        """Whether the weight holds the values of this adapter, so that these are out of date."""
        return trained_with(self.weight) == self.owner

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
        if self.is_held:
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


def stored_values_in(model: keras.layers.Layer) -> list[OwnValues]:
    """Return the stored values of adapters for the weights of a model."""
    return [layer for layer in all_layers(model) if isinstance(layer, OwnValues)]


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
