"""Switch, disable and delete the adapters of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from keras_svd_adapters.adapters.attachment import activate, detach
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.mode import with_own_kernels
from keras_svd_adapters.models.named_adapters import require_adapter
from keras_svd_adapters.models.refresh import restore_base_model, sync_model
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.models.state.weight_owners import (
    remove_owner,
    restore_owners_on_error,
    weights_of,
)
from keras_svd_adapters.runtime.live_models import with_models_around
from keras_svd_adapters.runtime.model_lock import model_lock


@changes_model
def delete_adapter(model: keras.layers.Layer, name: str) -> None:
    """Delete an adapter; without its last adapter, the model is an ordinary model again.

    Weights that `train` named at `enable` keep their trained values. Inactive
    adapters stay inactive: `set_adapter` activates one.

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
    models = with_models_around(model)
    if not any(adapted_sites(each, name) for each in models):
        for weight in weights_of(models):
            remove_owner(weight, name)
    sync_model(model) if adapted_sites(model) else restore_base_model(model)


@changes_model
def set_adapter(model: keras.layers.Layer, name: str | list[str] | None) -> None:
    """Switch to another adapter, or with `None` to the plain model.

    Weights that several adapters train (`train=`) get the values of the active one.
    `predict` and `generate` are traced once for each adapter, and not again when
    you switch back.

    Args:
        model: An adapted model.
        name: Name of the adapter to activate and train, or a list of names of
            adapters on different layers.

    Raises:
        ValueError: If there is no adapter of a name, or two are on one layer
            or train one weight.
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
    with restore_active_on_error(model):
        for site, found in zip(sites, chosen, strict=True):
            activate(site.layer, found[0] if found else None)
        sync_model(model, only_switched=True)


@contextmanager
def restore_active_on_error(model: keras.layers.Layer) -> Iterator[None]:
    """Context manager: if an error occurs, reactivate the adapters that were active before."""
    before = [(site.layer, site.layer.active_adapter) for site in adapted_sites(model)]
    try:
        with restore_owners_on_error(with_models_around(model)):
            yield
    except BaseException:
        for layer, name in before:
            activate(layer, name)
        raise


@contextmanager
def disabled(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Context manager: the model computes with its own kernels, as before it was adapted.

    Other threads that use the model at the same time compute with its adapters; on
    JAX, they wait.
    Weights that `train` named at `enable` keep their trained values.

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
    layers = frozenset(id(site.layer) for site in require_adapter(model))
    strategy = getattr(model, "distribute_strategy", None)  # TensorFlow only
    replicas = getattr(strategy, "num_replicas_in_sync", 1)
    # On JAX, loops of Keras within need the model alone: two threads would wait for each other.
    alone = replicas > 1 or keras.backend.backend() == "jax"
    with model_lock([model], alone), with_own_kernels(layers, in_all_threads=replicas > 1):
        yield model
