"""Switch, disable and delete the adapters of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from keras_svd_adapters.adapters.attachment import activate, activation_of, detach
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.mode import with_own_kernels
from keras_svd_adapters.models.named_adapters import require_adapter
from keras_svd_adapters.models.refresh import restore_base_model, sync_model
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.changes import changes_model, changing
from keras_svd_adapters.models.state.weight_owners import (
    remove_owner,
    restore_owners_on_error,
    weights_of,
)
from keras_svd_adapters.models.state.weighted_sets import weights_for
from keras_svd_adapters.models.weights_request import check_trained, check_weights
from keras_svd_adapters.runtime.host_values import restore_values_on_error
from keras_svd_adapters.runtime.live_models import with_models_around
from keras_svd_adapters.runtime.threads.model_lock import model_lock


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
    for site in require_adapter(model, name, to_delete=True):
        detach(site.layer, name)
    models = with_models_around(model)
    if not any(adapted_sites(each, name) for each in models):
        for weight in weights_of(models):
            remove_owner(weight, name)
    sync_model(model) if adapted_sites(model) else restore_base_model(model)


@changes_model
def set_adapter(
    model: keras.layers.Layer,
    name: str | list[str] | Mapping[str, float] | None,
    train: str | list[str] | None = None,
) -> None:
    """Switch to another adapter, to several with weights, or with `None` to the plain model.

    With weights, as in `{"short": 0.4, "digits": 1.0}`, each kernel adds up the changes of these
    adapters, each times its weight. An adapter adds nothing to kernels that it does not have.
    The weights are variables: another call with the same names changes the numbers alone, and
    nothing is traced again. A weight of 0 switches an adapter off, and 1 takes it as it is, bit
    for bit; in bfloat16, from 256 tokens on, the last bit may differ. All adapters with weights
    are frozen, unless `train` names them.

    Weights of the model that several adapters train (`enable(..., train=)`) get the values of the
    active one. `predict` and `generate` are traced once for each adapter or set of adapters, and
    not again when you switch back.

    Args:
        model: An adapted model.
        name: Name of the adapter to activate and train, or a list of names of
            adapters on different layers, or a weight for each of several adapters.
        train: With weights, the names of the adapters that train; the others are frozen.

    Raises:
        ValueError: If there is no adapter of a name, two without weights are on
            one layer, two train one weight of the model, or a weight is not finite. Also if
            another adapter is merged into the kernels. The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> for name in ("short", "digits"):
    ...     _ = ksa.enable(model, ksa.LoRA(rank=2), name=name)
    >>> ksa.set_adapter(model, {"short": 0.4, "digits": 1.0})
    >>> ksa.set_adapter(model, {"short": 0.8, "digits": 1.0}, train="digits")

    Reference:
        - Weights of a distilled prompt: [ControlPE, Sun et al., 2023](https://arxiv.org/abs/2311.09773)
    """
    if isinstance(name, Mapping):
        _set_weights(model, dict(name), train)
        return
    if train is not None:
        raise ValueError(
            "`train` goes with weights, as in `set_adapter(model, {'a': 0.4, 'b': 1.0}, "
            "train='b')`; without weights, the active adapter trains. "
            f"Received: name={name!r}, train={train!r}"
        )
    names = [name] if isinstance(name, str) else name
    names = [] if names is None else names
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        raise ValueError(
            "`name` is the name of an adapter, a list of names, a dictionary of weights, or `None` "
            f"for the plain model. Received: name={name!r}"
        )
    for each in names:
        require_adapter(model, each)
    sites = adapted_sites(model)
    chosen = [[n for n in adapters_of(site.layer) if n in names] for site in sites]
    for site, found in zip(sites, chosen, strict=True):
        if len(found) > 1:
            weights = ", ".join(f"{each!r}: 1.0" for each in found)
            raise ValueError(
                "One adapter of a layer can be active at a time without weights: "
                f"`set_adapter(model, {{{weights}}})` adds them up. "
                f"Received: name={name!r}, both on `{site.path}`"
            )
    with restore_active_on_error(model):
        for site, found in zip(sites, chosen, strict=True):
            activate(site.layer, found[0] if found else None)
        sync_model(model, only_switched=True)


def _set_weights(
    model: keras.layers.Layer, given: dict[Any, Any], train: str | list[str] | None
) -> None:
    """Activate the adapters that have a weight; if they are active, change the weights alone."""
    weights = check_weights(model, given)
    trained = check_trained(weights, train)
    sites = adapted_sites(model)
    chosen = [site for site in sites if adapters_of(site.layer).keys() & weights.keys()]
    active = {id(each): each for site in sites if (each := site.layer.adapter_weights())}
    if len(active) == 1:
        (now,) = active.values()
        same = all(site.layer.adapter_weights() is now for site in chosen)
        if same and set(now.names) == weights.keys() and set(now.trained) == trained:
            now.assign(weights)
            return
    ours = weights_for(model, chosen, weights, trained)
    with restore_active_on_error(model), restore_values_on_error([ours.values]):
        ours.assign(weights)
        for site in sites:
            activate(site.layer, None, ours if site in chosen else None)
        sync_model(model, only_switched=True)


@contextmanager
def restore_active_on_error(model: keras.layers.Layer) -> Iterator[None]:
    """Context manager: if an error occurs, reactivate the adapters that were active before."""
    before = [(site.layer, activation_of(site.layer)) for site in adapted_sites(model)]
    try:
        with restore_owners_on_error(with_models_around(model)):
            yield
    except BaseException:
        for layer, active in before:
            activate(layer, *active)
        raise


@contextmanager
def restore_switch_on_error(model: keras.layers.Layer) -> Iterator[None]:
    """Context manager: if an error occurs, undo all calls of `set_adapter` within."""
    before = [(site.layer, activation_of(site.layer)) for site in adapted_sites(model)]
    weights = {id(w): w for _, (_, w) in before if w is not None}
    with restore_values_on_error([each.values for each in weights.values()]):
        try:
            yield
        except BaseException:
            with changing(model):
                for layer, active in before:
                    activate(layer, *active)
                sync_model(model, only_switched=True)
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
