"""Compiled functions of a model: cleared or reused when its adapters change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.keras_private.layers import refresh_torch_parameters
from keras_svd_adapters.runtime.keras_private.tracing import compiled_as
from keras_svd_adapters.runtime.keras_private.traversal import all_layers
from keras_svd_adapters.runtime.keras_private.variables import copy_decay_exclusions
from keras_svd_adapters.runtime.live_models import cached_model_search, models_containing
from keras_svd_adapters.runtime.warnings import warn

TRAINED = ("train_function", "test_function")
INFERRED = ("predict_function", "generate_function")
KEPT = 32  # sets of compiled functions cached for later reuse


def clear_functions(model: keras.layers.Layer, new_trainables: bool = True) -> None:
    """Clear the compiled functions of every model that shares layers with this one.

    Args:
        model: A model that gained, lost or switched an adapter.
        new_trainables: Whether other variables train than before, so that an
            optimizer that is built must start over.
    """
    for around in models_containing(all_layers(model)):
        vars(around).pop("waiting_graphs", None)
        for graph in TRAINED + INFERRED:
            if getattr(around, graph, None) is not None:
                setattr(around, graph, None)
        forget_traces(around)
        refresh_torch_parameters(around)
        optimizer = getattr(around, "optimizer", None)
        if new_trainables and optimizer is not None and optimizer.built:
            around.optimizer = fresh_optimizer(optimizer)
            warn(
                f"The optimizer of `{around.name}` was built for other variables; it was replaced "
                "by a fresh copy with the same settings, `model.optimizer`. Call "
                "`model.compile(...)` to choose another."
            )


def forget_traces(model: keras.Model) -> None:
    """Make JAX trace the steps of a model again (Keras 3.0 and later).

    Keras passes the bound methods `train_step` and `test_step` to JAX. These methods compare equal
    each time, so JAX reuses its traces of them, even if the layers inside compute something else.
    """
    if keras.backend.backend() == "jax":
        import jax

        for step in (model.train_step, model.test_step):
            jax.jit(step).clear_cache()


def fresh_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return an unbuilt copy of an optimizer, with its exclusions from weight decay."""
    copy = type(optimizer).from_config(optimizer.get_config())
    copy_decay_exclusions(optimizer, copy)
    if hasattr(optimizer, "inner_optimizer"):
        copy.inner_optimizer = fresh_optimizer(optimizer.inner_optimizer)
    return copy


@dataclass(eq=False)
class FunctionCache:
    """Functions traced to predict and to generate, by adapters and by call of `compile`."""

    graphs: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def of(self, key: tuple[Any, ...]) -> dict[str, Any]:
        """Return the functions that were compiled under a key."""
        return next((found for known, found in self.graphs if _same(known, key)), {})

    def put(self, key: tuple[Any, ...], graphs: dict[str, Any]) -> None:
        """Store functions under a key."""
        self.graphs = [(k, found) for k, found in self.graphs if not _same(k, key)]
        self.graphs.append((key, graphs))
        self.graphs = self.graphs[-KEPT:]


def store_functions(model: keras.layers.Layer) -> list[tuple[keras.Model, FunctionCache]]:
    """Store the compiled functions of the models around this one, for `reuse_functions`."""
    aside = []
    for around in models_containing(all_layers(model)):
        waiting = vars(around).get("waiting_graphs", FunctionCache())
        graphs = {g: f for g in INFERRED if (f := getattr(around, g, None)) is not None}
        waiting.put(_key(around), graphs)
        aside.append((around, waiting))
    return aside


def reuse_functions(aside: list[tuple[keras.Model, FunctionCache]]) -> None:
    """Restore the functions that models compiled when these adapters were active before."""
    for around, waiting in aside:
        object.__setattr__(around, "waiting_graphs", waiting)
        for graph, function in waiting.of(_key(around)).items():
            setattr(around, graph, function)


def _key(model: keras.Model) -> tuple[Any, ...]:
    """Return the state, besides the values of weights, that a compiled function depends on."""
    sites = adapted_sites(model)
    active = tuple((site.key, site.layer.trace_key) for site in sites)
    return (active, compiled_as(model))


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[0] == other[0] and one[1] is other[1]


@contextmanager
def with_base_functions(model: keras.layers.Layer, sites: list[Site]) -> Iterator[None]:
    """Context manager: layers and compiled functions compute as before the layers were adapted."""
    with with_temporary_functions(model, [site.layer.base() for site in sites]):
        yield


@contextmanager
def with_temporary_functions(
    model: keras.layers.Layer, ways: list[AbstractContextManager[None]]
) -> Iterator[None]:
    """Context manager: enter contexts that change the layers, in compiled functions as well."""
    with cached_model_search():
        kept = [
            (around, graph, getattr(around, graph), getattr(around, "optimizer", None))
            for around in models_containing(all_layers(model))
            for graph in TRAINED
            if getattr(around, graph, None) is not None
        ]
        aside = store_functions(model)
        clear_functions(model, new_trainables=False)
    try:
        with ExitStack() as stack:
            for way in ways:
                stack.enter_context(way)
            reuse_functions(aside)
            yield
            aside = store_functions(model)
    finally:
        clear_functions(model, new_trainables=False)
        reuse_functions(aside)
        for around, graph, function, optimizer in kept:
            if getattr(around, "optimizer", None) is optimizer:
                setattr(around, graph, function)
