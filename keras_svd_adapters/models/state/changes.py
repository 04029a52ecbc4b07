"""Changes of the adapters of a model: one at a time, while no other thread uses the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import keras

from keras_svd_adapters.adapters.own_values import stored_values_in, trained_with
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.adapted_model import AdaptedModel
from keras_svd_adapters.models.state.compiled_functions import SLOTS, store_of
from keras_svd_adapters.models.state.optimizer_state import fresh_optimizer, renewed_optimizer
from keras_svd_adapters.runtime.keras_private.layers import all_layers, refresh_torch_parameters
from keras_svd_adapters.runtime.keras_private.tracing import end_loop_state, record_loop_sharding
from keras_svd_adapters.runtime.live_models import models_containing, with_models_around
from keras_svd_adapters.runtime.threads.context_values import with_value
from keras_svd_adapters.runtime.threads.model_lock import model_lock
from keras_svd_adapters.runtime.warnings import warn

Verb = TypeVar("Verb", bound=Callable[..., Any])
_trained: ContextVar[dict[int, list[keras.Variable]] | None] = ContextVar("_trained", default=None)


def changes_model(verb: Verb) -> Verb:
    """Let a function that changes adapters wait until no other thread uses the model.

    The function may also run in a callback of `fit`: values that JAX holds outside of the model
    return to its variables first.

    Args:
        verb: A function whose first argument is the model.
    """

    first = next(iter(signature(verb).parameters))

    @wraps(verb)
    def change(*args: Any, **kwargs: Any) -> Any:
        model = args[0] if args else kwargs.get(first)
        if not isinstance(model, keras.layers.Layer):
            return verb(*args, **kwargs)  # which raises an error of its own
        with changing(model):
            return verb(*args, **kwargs)

    return change  # type: ignore[return-value]


@contextmanager
def changing(model: keras.layers.Layer) -> Iterator[None]:
    """Context manager: this thread alone uses a model and the models around it."""
    around = with_models_around(model)
    with model_lock(around, alone=True):
        for other in around:
            end_loop_state(other)
        trained = {id(other): list(other.trainable_variables) for other in around}
        with with_value(_trained, (_trained.get() or {}) | trained):
            yield


def update_functions(
    model: keras.layers.Layer,
    only_switched: bool = False,
    restarted: Sequence[keras.Variable] = (),
) -> None:
    """Give every model that shares layers with this one the functions and optimizer it needs.

    Args:
        model: A model that gained, lost or switched an adapter.
        only_switched: Whether other adapters are active and nothing else changed. Functions
            that were compiled for these adapters before are then reused.
        restarted: Weights that hold the values of another adapter from now on.
    """
    for trained in (_trained.get() or {}).values():
        trained[:] = [v for v in trained if all(v is not weight for weight in restarted)]
    for around in models_containing(all_layers(model)):
        refresh_torch_parameters(around)
        _renew_optimizer(around)
        record_loop_sharding(around)
        store = store_of(around)
        store.trains = bool(around.trainable_variables)
        if not only_switched:
            store.forget()
        if isinstance(around, AdaptedModel):
            sites = adapted_sites(around)
            store.active = tuple(map(_active_on, sites))
            store.held = tuple(trained_with(own.weight) for own in stored_values_in(around))
            store.layers = frozenset(id(site.layer) for site in sites)
            if store.fits and keras.distribution.distribution() is not None:
                # In its next step, the running loop takes the values out of the variables, and JAX
                # could not ask them for their sharding.
                loop: Any = around
                _ = loop.train_function
        else:
            _make_ordinary(around)


def _active_on(site: Site) -> tuple[Any, ...]:
    layer = site.layer
    return site.key, layer.active_adapters, layer.trained_adapters, layer.adapter_weights()


def _make_ordinary(model: keras.Model) -> None:
    """Give a model without adapters Keras's own functions, those that it had made."""
    made = vars(model).pop("function_store").made
    forget_traces(model)
    for slot in SLOTS:
        if getattr(model, slot, None) is not None:
            setattr(model, slot, None)
        if slot in made:
            getattr(model, f"make_{slot}")()


def forget_traces(model: keras.Model) -> None:
    """Make JAX trace the steps of a model again (Keras 3.0 and later).

    Keras passes the bound methods `train_step` and `test_step` to JAX. These methods compare equal
    each time, so JAX reuses its traces of them, even if the layers inside compute something else.
    """
    if keras.backend.backend() == "jax":
        import jax

        for step in (model.train_step, model.test_step):
            jax.jit(step).clear_cache()


def _renew_optimizer(model: keras.Model) -> None:
    """Replace the optimizer of a model if it was built for other variables."""
    optimizer, now = getattr(model, "optimizer", None), list(model.trainable_variables)
    before = (_trained.get() or {}).get(id(model))
    if (
        optimizer is None
        or not optimizer.built
        or list(map(id, before or [])) == list(map(id, now))
    ):
        return
    if store_of(model).fits or isinstance(model, AdaptedModel):
        model.optimizer, kept = renewed_optimizer(optimizer, before or [], now)
    else:  # Keras builds it when the model trains, which may never happen
        model.optimizer, kept = fresh_optimizer(optimizer), 0
    if _trained.get() is not None:
        _trained.get()[id(model)] = now  # type: ignore[index]
    if int(keras.ops.convert_to_numpy(optimizer.iterations)) == 0:
        return  # nothing is lost
    state = f"keeps the state of {kept} variables" if kept else "starts at step 0"
    warn(
        f"The optimizer of `{model.name}` was built for other variables; a copy with the same "
        f"settings, `model.optimizer`, replaced it and {state}. Call `model.compile(...)` to "
        "choose another."
    )
