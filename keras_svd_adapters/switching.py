"""Switching adapters, taking them off, and what must agree with those there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from keras_svd_adapters.graphs import (
    computing_without,
    forget_graphs,
    set_graphs_aside,
    take_graphs_up,
)
from keras_svd_adapters.host import activate, adapters_of, detach
from keras_svd_adapters.keras_traversal import all_layers
from keras_svd_adapters.live_models import models_around, searching_once
from keras_svd_adapters.quantized_logits import leave_logits, mend_logits
from keras_svd_adapters.root import make_root, unmake_root
from keras_svd_adapters.site import Site, adapted_sites, adapter_names
from keras_svd_adapters.training import let_train, pin_all_but, release, thaw
from keras_svd_adapters.weights import own_weights, trained_with


def finish(model: keras.layers.Layer, name: str, extra: list[keras.Variable]) -> None:
    """Freezes what does not train, and tells the model and those around it."""
    for weight in extra:
        weight.trained_with = name
    settle(model)


@searching_once()
def settle(model: keras.layers.Layer) -> None:
    """Makes what trains, what saves and what is compiled agree with the adapters there are."""
    sites = adapted_sites(model)
    active = {site.layer.active_adapter for site in sites} - {None}
    train = [weight for _, _, weight in own_weights(model) if trained_with(weight) in active]
    pin_all_but(model, train)
    thaw(model, train)
    for layer in {layer for site in sites for layer in site.chain}:
        let_train(layer)
    for around in models_around([site.layer for site in sites]):
        make_root(around)
        mend_logits(around)
    mend_logits(model)
    forget_graphs(model)


@searching_once()
def restore_plain(model: keras.layers.Layer) -> None:
    """Makes a model without adapters, and those around it, ordinary ones again."""
    release(model)
    for around in models_around(all_layers(model)):
        if not adapted_sites(around):
            unmake_root(around)
            leave_logits(around)
    forget_graphs(model)


@searching_once()
def delete_adapter(model: keras.layers.Layer, name: str) -> None:
    """Takes an adapter off a model; after the last one, it is an ordinary model again.

    What `train` named at `enable` stays as trained. Adapters that rested go on
    resting: `set_adapter` wakes one.

    Args:
        model: An adapted model.
        name: Name of the adapter.

    Raises:
        ValueError: If there is no adapter of this name.
    """
    if not isinstance(name, str):
        raise ValueError(f"`name` is the name of an adapter. Received: name={name!r}")
    for site in require_adapter(model, name):
        detach(site.layer, name)
    for _, _, weight in own_weights(model):
        if trained_with(weight) == name:
            weight.trained_with = None
    settle(model) if adapted_sites(model) else restore_plain(model)


@searching_once()
def set_adapter(model: keras.layers.Layer, name: str | list[str] | None) -> None:
    """Switches to another adapter, or with `None` to the plain model.

    `predict` and `generate` are traced once for each, and not again on
    switching back.

    Args:
        model: An adapted model.
        name: Name of the adapter that computes and trains from now on, or a
            list of names of adapters on different layers.

    Raises:
        ValueError: If there is no adapter of a name, or two are on one layer.
    """
    names = [name] if isinstance(name, str) else name
    names = [] if names is None else names
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        raise ValueError(
            "`name` is the name of an adapter, a list of names, or `None` for the plain model. "
            f"Received: name={name!r}"
        )
    for each in names:
        require_adapter(model, each)
    sites = adapted_sites(model)
    chosen = [[n for n in adapters_of(site.layer) if n in names] for site in sites]
    for site, found in zip(sites, chosen, strict=True):
        if len(found) > 1:
            raise ValueError(
                "One adapter of a layer can be active at a time. "
                f"Received: name={name!r}, both on `{site.path}`"
            )
    aside = set_graphs_aside(model)
    with active_as_before_on_failure(model):
        for site, found in zip(sites, chosen, strict=True):
            activate(site.layer, found[0] if found else None)
        settle(model)
    take_graphs_up(aside)


@contextmanager
def active_as_before_on_failure(model: keras.layers.Layer) -> Iterator[None]:
    """Within, whatever goes wrong, the adapters that were active are so again."""
    before = [(site.layer, site.layer.active_adapter) for site in adapted_sites(model)]
    try:
        yield
    except BaseException:
        for layer, name in before:
            activate(layer, name)
        raise


def require_adapter(model: keras.layers.Layer, name: str | None = None) -> list[Site]:
    """The sites that carry an adapter of this name; raises where there are none."""
    sites = adapted_sites(model, name)
    if not sites:
        names = sorted(adapter_names(adapted_sites(model)))
        if not names:
            merged = vars(model).get("merge_record") is not None
            first = "it was merged, `unmerge` takes that back" if merged else "`enable` one first"
            raise ValueError(f"The model has no adapter: {first}. Received: {model!r}")
        known = f"It has {', '.join(map(repr, names))}."
        raise ValueError(f"The model has no such adapter. {known} Received: name={name!r}")
    return sites


def require_values(model: keras.layers.Layer, what: str) -> None:
    """Raises where an adapter waits for its values."""
    for site in adapted_sites(model):
        if not all(adapter.filled for adapter in adapters_of(site.layer).values()):
            raise ValueError(
                f"The adapter on `{site.path}` was rebuilt from a configuration and holds no "
                "values yet. Load the model's weights first, or take a model that is not adapted. "
                f"Received: {what}"
            )


def only_adapter(model: keras.layers.Layer) -> str:
    """The name of a model's only adapter; raises where there are several."""
    names = sorted(adapter_names(require_adapter(model)))
    if len(names) > 1:
        raise ValueError(
            "The model has several adapters: say which with `name=`. "
            f"Received: adapters {names}, name=None"
        )
    return names[0]


@contextmanager
def disabled(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Within, the model computes with its own kernels, as if they had never been adapted.

    What `train` named at `enable` stays as trained.

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
    with computing_without(model, require_adapter(model)):
        yield model
