"""The adapters that train each weight of a model, and the values that the weight has for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from keras_svd_adapters.adapters.class_mixing import add_mixin, remove_mixin
from keras_svd_adapters.adapters.own_values import (
    OwnValues,
    OwnValuesLayer,
    hold,
    own_values,
    owners_of,
    trained_with,
)
from keras_svd_adapters.models.sites.site import RECURRENT
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.runtime.host_values import restore_values_on_error
from keras_svd_adapters.runtime.keras_private.layers import (
    all_layers,
    attach_child,
    detach_child,
    direct_weights,
)
from keras_svd_adapters.runtime.layer_attributes import walk


def add_owner(
    model: keras.layers.Layer, weight: keras.Variable, name: str, has_values: bool = True
) -> None:
    """Let an adapter train a weight; from the second adapter on, each has its own values.

    Args:
        model: The model.
        weight: A weight outside the adapters.
        name: Name of the adapter.
        has_values: Whether the adapter starts with the values that the weight has now, or
            without values, which are then loaded.
    """
    owners = owners_of(weight)
    if name in owners:
        return
    if not owners:
        weight.trained_with = name
        return
    for owner in (*owners, name):
        if owner not in own_values(weight):
            store_values(model, weight, owner, has_values)


def store_values(
    model: keras.layers.Layer, weight: keras.Variable, name: str, has_values: bool
) -> None:
    """Store the values of an adapter for a weight in a child of the weight's layer."""
    stored = OwnValues(weight, name, has_values)
    layer = _layers_with(model, weight)[0]
    attach_child(layer, _attribute(layer, weight, name), stored)
    weight.own_values = own_values(weight) | {name: stored}
    for layer in _layers_that_compute(model, weight):
        if not isinstance(layer, OwnValuesLayer):
            add_mixin(layer, OwnValuesLayer)


def remove_owner(model: keras.layers.Layer, weight: keras.Variable, name: str) -> None:
    """Undo `add_owner`; the weight keeps the values that it holds."""
    if name not in owners_of(weight):
        return
    if trained_with(weight) == name:
        weight.trained_with = None
    kept = {owner: own for owner, own in own_values(weight).items() if owner != name}
    _keep(model, weight, {} if set(kept) == {trained_with(weight)} else kept)


def forget_single_owners(model: keras.layers.Layer) -> bool:
    """Store no values for a weight that holds those of its only adapter; return if any were."""
    single = [w for _, _, w in base_weights(model) if set(own_values(w)) == {trained_with(w)}]
    for weight in single:
        _keep(model, weight, {})
    return bool(single)


def _keep(model: keras.layers.Layer, weight: keras.Variable, kept: dict[str, OwnValues]) -> None:
    removed = [owner for owner in own_values(weight) if owner not in kept]
    for layer in _layers_with(model, weight):
        for name in (_attribute(layer, weight, owner) for owner in removed):
            if hasattr(layer, name):
                detach_child(layer, name)
    weight.own_values = kept
    for layer in _layers_that_compute(model, weight):
        if not any(own_values(each) for each in layer.weights):
            remove_mixin(layer, OwnValuesLayer)


def hold_active(model: keras.layers.Layer, active: set[str | None]) -> list[keras.Variable]:
    """Give each weight the values of the active adapter that trains it; return what changed."""
    changed = []
    for _, _, weight in base_weights(model):
        wanted = [name for name in own_values(weight) if name in active]
        if wanted and trained_with(weight) not in wanted:
            hold(weight, wanted[0])
            changed.append(weight)
    return changed


def put_last(model: keras.layers.Layer) -> None:
    """Move the mixin and the stored values of this module after those of adapters.

    The `call` of the mixin is around that of the adapters. The order of the variables does not
    depend on what was attached first.
    """
    with without_own_values(model):
        pass


@contextmanager
def without_own_values(model: keras.layers.Layer) -> Iterator[None]:
    """Context manager: layers have no stored values as children; afterwards, as `put_last`."""
    children = [
        (layer, _attribute(layer, weight, name), own)
        for _, _, weight in base_weights(model)
        for name, own in own_values(weight).items()
        for layer in _layers_with(model, weight)[:1]
    ]
    for layer, attribute, _ in children:
        detach_child(layer, attribute)
    try:
        yield
    finally:
        for layer, attribute, own in children:
            attach_child(layer, attribute, own)
        for layer in all_layers(model):
            if isinstance(layer, OwnValuesLayer):
                remove_mixin(layer, OwnValuesLayer)
                add_mixin(layer, OwnValuesLayer)


@contextmanager
def restore_owners_on_error(model: keras.layers.Layer) -> Iterator[None]:
    """Context manager: if an error occurs, restore the adapters and values of each weight."""
    before = [(w, trained_with(w), owners_of(w)) for _, _, w in base_weights(model)]
    several = [weight for weight, _, _ in before if own_values(weight)]
    variables = [own.value for weight in several for own in own_values(weight).values()]
    with restore_values_on_error([*several, *variables]):
        try:
            yield
        except BaseException:
            for weight, holder, owners in before:
                added = set(owners_of(weight)) - set(owners)
                if trained_with(weight) != holder:
                    weight.trained_with = holder
                for name in added:
                    remove_owner(model, weight, name)
            raise


def _attribute(layer: keras.layers.Layer, weight: keras.Variable, name: str) -> str:
    """Return the attribute with the values of an adapter; weights may have equal names."""
    index = [own is weight for own in direct_weights(layer)].index(True)
    return f"values_{index}_of_{name}"


def _layers_with(model: keras.layers.Layer, weight: keras.Variable) -> list[keras.layers.Layer]:
    return [layer for layer in all_layers(model) if any(weight is w for w in direct_weights(layer))]


def _layers_that_compute(
    model: keras.layers.Layer, weight: keras.Variable
) -> list[keras.layers.Layer]:
    """Return the layers whose `call` computes with a weight; a recurrent layer reads its cell's."""
    holders = {id(layer) for layer in _layers_with(model, weight)}
    return [
        next((layer for layer in chain if isinstance(layer, RECURRENT)), chain[-1])
        for _, chain in walk(model)
        if id(chain[-1]) in holders
    ]
