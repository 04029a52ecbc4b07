"""Attaching adapters to a model, detaching and switching them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import keras

from keras_svd_adapters.adapter import Adapter
from keras_svd_adapters.host import activate, adapters_of, attach, detach
from keras_svd_adapters.keras_internals import all_layers, let_train, models_around
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.progress import Progress
from keras_svd_adapters.root import make_root, roots, trained_with, unmake_root
from keras_svd_adapters.site import Site, adapted_sites
from keras_svd_adapters.status import Status, status
from keras_svd_adapters.svd import decompose
from keras_svd_adapters.targets import Targets, choose, matches
from keras_svd_adapters.training import (
    choose_weights,
    forget_graphs,
    other_graphs,
    own_weights,
    pin_all_but,
    release,
    thaw,
)

Chosen = list[tuple[Site, Method]]


def enable(
    model: keras.layers.Layer,
    method: Method | None = None,
    targets: Targets = None,
    exclude: Targets = None,
    train: Any = None,
    name: str = "default",
    verbose: int | str = "auto",
) -> Status:
    """Adapts a model in place: its kernels freeze, and a few new values train.

    At step 0 the adapted model computes what the model did. After it, exactly
    the adapter's values train, and what `train` names. Compile the model after
    this call, or before: graphs that exist are traced again.

    Args:
        model: A built Keras model: any KerasHub backbone or task, or your own.
        method: A method such as `SVFT(pattern="banded", d=2)`.
        targets: Which kernels. `None` for all inside the repeated blocks; a
            layer name, a path, a glob, a compiled regular expression, a
            callable, or a list of these; or a mapping from such a pattern to a
            method, where the first that matches counts.
        exclude: Which of these to leave out.
        train: What trains besides: layer names, or paths of weights such as
            `"*/bias"`. It goes into the adapter file.
        name: Name of the adapter. A second one on the same layers needs
            another name and becomes the active one.
        verbose: 0 for silence, 1 for a progress bar, `"auto"` for a bar where
            a person looks on.

    Returns:
        A `Status` of the adapted model; print it.

    Raises:
        ValueError: If a pattern matches nothing, a kernel does not suit the
            method, or the name is taken. The model is left as it was.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> ksa.enable(model, ksa.SVF()).trainable_parameters
    6
    """
    check_name(name)
    chosen = choose_methods(model, method, targets, exclude)
    check_methods(chosen, name)
    extra = choose_weights(model, train)
    attach_all(chosen, name, verbose)
    finish(model, name, list(extra.values()))
    return status(model)


def check_name(name: str) -> None:
    """Raises where an adapter cannot have this name."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            "The name of an adapter is a word of letters, digits and underscores, such as "
            f"'pirate'. Received: name={name!r}"
        )


def choose_methods(
    model: keras.layers.Layer, method: Method | None, targets: Targets, exclude: Targets = None
) -> Chosen:
    """The sites to adapt, each with its method."""
    rules = targets if isinstance(targets, Mapping) else {}
    chosen: Chosen = []
    for site in choose(model, list(rules) if rules else targets, exclude):
        rule = next((rule for pattern, rule in rules.items() if matches(site, pattern)), None)
        chosen.append((site, _require_method(rule or method)))
    return chosen


def _require_method(method: Any) -> Method:
    if not isinstance(method, Method):
        raise ValueError(
            "`method` is one such as `SVFT(pattern='banded', d=2)` or `LoRA(rank=8)`, with its "
            f"arguments in brackets. Received: method={method!r}"
        )
    return method


def check_methods(chosen: Chosen, name: str) -> None:
    """Raises where a kernel does not suit its method, or has an adapter of this name."""
    for site, method in chosen:
        if name in adapters_of(site.layer):
            raise ValueError(
                f"`{site.path}` has an adapter of this name. Give the new one another, "
                "`name=...`, or `keras_svd_adapters.merge(model)` first. "
                f"Received: name={name!r}"
            )
        try:
            method.check(site.view.m, site.view.n)
        except ValueError as error:
            raise ValueError(f"{method} does not suit `{site.path}`. {error}") from None


def attach_all(
    chosen: Chosen,
    name: str,
    verbose: int | str,
    start: Callable[[Site, Method], Adapter] | None = None,
) -> None:
    """Attaches adapters one kernel at a time; whatever stops it, none stays."""
    start = start or start_adapter
    before = {id(site.layer): getattr(site.layer, "active_adapter", None) for site, _ in chosen}
    done: list[keras.layers.Layer] = []
    try:
        with Progress(len(chosen), verbose) as progress:
            for site, method in chosen:
                attach(site.layer, name, start(site, method))
                done.append(site.layer)
                progress.step()
    except BaseException:
        for layer in done:
            detach(layer, name)
            if adapters_of(layer):
                activate(layer, before[id(layer)])
        raise


def start_adapter(site: Site, method: Method) -> Adapter:
    """A new adapter for a site, with its factors from the kernel as it is."""
    try:
        svd = decompose(site.matrix()) if method.needs_svd else None
    except ValueError as error:
        raise ValueError(f"`{site.path}`: {error}") from None
    with name_scopes(site.path):
        return Adapter.start(method, site.view, svd, dtype=site.layer.dtype_policy)


@contextmanager
def name_scopes(path: str) -> Iterator[None]:
    """Within, new variables have a path under that of a layer."""
    with ExitStack() as stack:
        for part in path.split("/"):
            stack.enter_context(keras.name_scope(part))
        yield


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
