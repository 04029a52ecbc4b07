"""Switching adapters, taking them off, and what must agree with those there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import keras

from keras_svd_adapters.host import activate, adapters_of, detach
from keras_svd_adapters.keras_internals import all_layers, let_train, models_around
from keras_svd_adapters.root import make_root, roots, trained_with, unmake_root
from keras_svd_adapters.site import Site, adapted_sites
from keras_svd_adapters.training import (
    forget_graphs,
    other_graphs,
    own_weights,
    pin_all_but,
    release,
    thaw,
)


def finish(model: keras.layers.Layer, name: str, extra: list[keras.Variable]) -> None:
    """Freezes what does not train, and tells the model and those around it."""
    for weight in extra:
        weight.trained_with = {*trained_with(weight), name}
    settle(model)


def settle(model: keras.layers.Layer) -> None:
    """Makes what trains, what saves and what is compiled agree with the adapters there are."""
    sites = adapted_sites(model)
    active = {site.layer.active_adapter for site in sites}
    train = [weight for _, _, weight in own_weights(model) if trained_with(weight) & active]
    pin_all_but(model, train)
    thaw(model, train)
    for layer in {layer for site in sites for layer in site.chain}:
        let_train(layer)
    for root in roots(sites):
        make_root(root)
    forget_graphs(model)


def delete_adapter(model: keras.layers.Layer, name: str) -> None:
    """Takes an adapter off a model; without any left, the model is as it was before.

    Args:
        model: An adapted model.
        name: Name of the adapter.

    Raises:
        ValueError: If there is no adapter of this name.
    """
    sites = require_adapter(model, name)
    for site in sites:
        detach(site.layer, name)
    for _, _, weight in own_weights(model):
        weight.trained_with = trained_with(weight) - {name}
    if adapted_sites(model):
        settle(model)
    else:
        restore_plain(model)


def restore_plain(model: keras.layers.Layer) -> None:
    """Makes a model without adapters, and those around it, ordinary ones again."""
    release(model)
    for around in models_around(all_layers(model)):
        if not adapted_sites(around):
            unmake_root(around)
    forget_graphs(model)


def set_adapter(model: keras.layers.Layer, name: str | None) -> None:
    """Switches to another adapter, or with `None` to the plain model.

    Args:
        model: An adapted model.
        name: Name of the adapter that computes and trains from now on.

    Raises:
        ValueError: If there is no adapter of this name.
    """
    if name is not None:
        require_adapter(model, name)
    for site in adapted_sites(model):
        activate(site.layer, name if name in adapters_of(site.layer) else None)
    settle(model)


def require_adapter(model: keras.layers.Layer, name: str | None = None) -> list[Site]:
    """The sites that carry an adapter of this name; raises where there are none."""
    sites = adapted_sites(model, name)
    if not sites:
        names = sorted({n for site in adapted_sites(model) for n in adapters_of(site.layer)})
        known = f"It has {', '.join(map(repr, names))}." if names else "It has none: `enable` one."
        raise ValueError(f"The model has no such adapter. {known} Received: name={name!r}")
    return sites


@contextmanager
def disabled(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Within, the model computes as if it had never been adapted.

    Args:
        model: An adapted model.

    Yields:
        The model.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.SVF())
    >>> with ksa.disabled(model):
    ...     before = model.predict(keras.ops.ones((1, 8)), verbose=0)
    """
    layers = [site.layer for site in require_adapter(model)]
    with ExitStack() as stack:
        stack.enter_context(other_graphs(model))
        for layer in layers:
            stack.enter_context(layer.base())
        yield model
