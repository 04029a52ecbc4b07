"""The adapters that train each weight of a model, and the values that the weight has for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras

from keras_svd_adapters.adapters.class_mixing import (
    add_mixin,
    remove_mixin,
    with_signature_of,
)
from keras_svd_adapters.adapters.layers.read_weight import attached_kernels
from keras_svd_adapters.adapters.layers.recurrent import HeldKernelsLayer
from keras_svd_adapters.adapters.own_values import (
    OwnValues,
    hold,
    own_values,
    owners_of,
    trained_with,
)
from keras_svd_adapters.adapters.own_values_layer import OwnValuesLayer
from keras_svd_adapters.models.sites.site import RECURRENT
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.runtime.host_values import restore_values_on_error
from keras_svd_adapters.runtime.keras_private.layers import (
    all_layers,
    direct_weights,
)
from keras_svd_adapters.runtime.layer_attributes import walk

Models = Sequence[keras.layers.Layer]


def weights_of(models: Models) -> list[keras.Variable]:
    """Return the weights outside the adapters of these models, each once."""
    found = (weight for model in models for _, _, weight in base_weights(model))
    return list({id(weight): weight for weight in found}.values())


def add_owner(models: Models, weight: keras.Variable, name: str, has_values: bool = True) -> None:
    """Let an adapter train a weight; from the second adapter on, each has its own values.

    `place_mixins` is due after this and after `remove_owner`; `sync_model` calls it.

    Args:
        models: The models that have the weight.
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
            store_values(models, weight, owner, has_values)


def store_values(models: Models, weight: keras.Variable, name: str, has_values: bool) -> None:
    """Store the values of an adapter for a weight in a child of the weight's layer."""
    layer = next(each for each in _layers(models) if _index(each, weight) is not None)
    stored = OwnValues(weight, name, has_values)
    stored.attach_to(layer, f"values_{_index(layer, weight)}_of_{name}")
    weight.own_values = dict(sorted({**own_values(weight), name: stored}.items()))


def remove_owner(weight: keras.Variable, name: str) -> None:
    """Undo `add_owner`; the weight keeps the values that it holds."""
    if name not in owners_of(weight):
        return
    if trained_with(weight) == name:
        weight.trained_with = None
    kept = {owner: own for owner, own in own_values(weight).items() if owner != name}
    _keep(weight, {} if set(kept) == {trained_with(weight)} else kept)


def forget_single_owners(models: Models) -> bool:
    """Store no values for a weight that holds those of its only adapter; return if any were."""
    single = [w for w in weights_of(models) if set(own_values(w)) == {trained_with(w)}]
    for weight in single:
        _keep(weight, {})
    if single:
        place_mixins(models)
    return bool(single)


def _keep(weight: keras.Variable, kept: dict[str, OwnValues]) -> None:
    for owner, own in own_values(weight).items():
        if owner not in kept:
            own.detach()
    weight.own_values = kept


def hold_active(models: Models, active: set[str | None]) -> list[keras.Variable]:
    """Give each weight the values of the active adapter that trains it; return what changed."""
    wanted = [(w, [n for n in own_values(w) if n in active]) for w in weights_of(models)]
    for weight, names in wanted:
        if len(names) > 1:
            raise ValueError(
                "A weight has the values of one adapter at a time: adapters that train the same "
                "weight are not active together. Activate one of them, or `enable` them again "
                f"without it in `train`. Received: {names}, all active, and each trains "
                f"`{weight.path}`"
            )
    changed = [(weight, names[0]) for weight, names in wanted if names]
    changed = [(weight, name) for weight, name in changed if trained_with(weight) != name]
    for weight, name in changed:
        hold(weight, name)
    return [weight for weight, _ in changed]


def place_mixins(models: Models) -> None:
    """Put the mixins on the layers that compute with such weights, around that of an adapter.

    A recurrent layer reads the weights of its cell.
    """
    wanted: dict[int, list[type]] = {}
    for _, chain in (each for model in models for each in walk(model)):
        kernels = attached_kernels(chain[-1])
        has_vectors = any(each.is_vector for each in kernels)
        for around in (each for each in chain if kernels and isinstance(each, RECURRENT)):
            wanted.setdefault(id(around), []).insert(0, HeldKernelsLayer)
        if has_vectors or any(own_values(weight) for weight in direct_weights(chain[-1])):
            layer = next((each for each in chain if isinstance(each, RECURRENT)), chain[-1])
            wanted.setdefault(id(layer), []).append(OwnValuesLayer)
    for layer in _layers(models):
        remove_mixin(layer, OwnValuesLayer)
        remove_mixin(layer, HeldKernelsLayer)
        for mixin in dict.fromkeys(wanted.get(id(layer), [])):
            add_mixin(layer, with_signature_of(type(layer), mixin))  # type: ignore[arg-type]


def move_last(models: Models) -> None:
    """Move the mixins and stored values of this module after those of adapters."""
    with without_own_values(models):
        pass


@contextmanager
def without_own_values(models: Models) -> Iterator[None]:
    """Context manager: layers have no stored values as children.

    Afterwards, these come after the adapters, so that the order of the variables does not depend
    on what was attached first.
    """
    every = [own for weight in weights_of(models) for own in own_values(weight).values()]
    for own in every:
        own.detach()
    try:
        yield
    finally:
        for own in every:
            own.attach_to(own.layer(), own.attribute)
        place_mixins(models)


@contextmanager
def restore_owners_on_error(models: Models) -> Iterator[None]:
    """Context manager: if an error occurs, restore the adapters and values of each weight."""
    before = [(w, trained_with(w), owners_of(w)) for w in weights_of(models)]
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
                    remove_owner(weight, name)
            place_mixins(models)
            raise


def _layers(models: Models) -> list[keras.layers.Layer]:
    return list({id(layer): layer for model in models for layer in all_layers(model)}.values())


def _index(layer: keras.layers.Layer, weight: keras.Variable) -> int | None:
    """Return the place of a weight among those of its layer; names may be equal."""
    return next((i for i, own in enumerate(direct_weights(layer)) if own is weight), None)
