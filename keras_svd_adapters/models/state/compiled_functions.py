"""Compiled functions of a model, stored for each set of active adapters and each mode.

Keras stores one function to train, to test, to predict and to generate in a model. The mixin
`ModelFunctions` stores several of each. A thread finds the function for the adapters that are
active and for its own mode, so no thread uses a function that another mode compiled.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras

from keras_svd_adapters.adapters.mode import current_mode
from keras_svd_adapters.adapters.per_sample import AdapterIds
from keras_svd_adapters.models.state.building import builds_first
from keras_svd_adapters.runtime.keras_private.variables import initialize, stored_value
from keras_svd_adapters.runtime.threads.context_values import with_value

SLOTS = {  # the functions that Keras stores, and the methods that its loops compile
    "train_function": "train_step",
    "test_function": "test_step",
    "predict_function": "predict_step",
    "generate_function": None,
}
IDS = "adapter_ids"  # key of the adapter of each prompt among the inputs of `generate_step`
KEPT = 32  # sets of compiled functions that wait for reuse
_making: ContextVar[bool] = ContextVar("_making", default=False)
_making_lock = threading.RLock()


@dataclass(eq=False)
class FunctionStore:
    """Compiled functions of one model.

    Args:
        active: The active adapters of each adapted layer, which of them train, and their weights.
        held: The adapter whose values each weight holds, of weights that several adapters train.
        layers: Identities of the adapted layers.
        made: Names of the functions that Keras made since the last `compile`.
        functions: Functions by name, with the optimizer that each of them trains with, for each
            set of active adapters and each mode.
        per_sample: Models that predict with one adapter per sample.
        fits: Number of calls of `fit` and `train_on_batch` that run now.
        told: Methods whose missing schedule has been reported by a warning.
        trains: Whether the model had a trainable variable after the last change of its adapters.
        at_end: Functions to call when no `fit` runs any more.
    """

    active: tuple[Any, ...] = ()
    held: tuple[str | None, ...] = ()
    layers: frozenset[int] = frozenset()
    made: set[str] = field(default_factory=set)
    functions: OrderedDict[Any, dict[str, tuple[Any, Any]]] = field(default_factory=OrderedDict)
    per_sample: OrderedDict[Any, Any] = field(default_factory=OrderedDict)
    fits: int = 0
    told: set[Any] = field(default_factory=set)
    trains: bool = True
    at_end: list[Callable[[], None]] = field(default_factory=list)

    @property
    def now(self) -> dict[str, tuple[Any, Any]]:
        """The functions for the active adapters and the mode of this thread."""
        key = (self.active, self.held, current_mode().key(self.layers))
        found = self.functions.setdefault(key, {})
        self.functions.move_to_end(key)
        while len(self.functions) > KEPT:
            self.functions.popitem(last=False)
        return found

    def forget(self) -> None:
        """Discard all functions; each one is made again when a loop of Keras needs it."""
        self.functions.clear()
        self.per_sample.clear()


def store_of(model: keras.Model) -> FunctionStore:
    """Return the compiled functions of a model."""
    store = vars(model).get("function_store")
    if store is None:
        made = {slot for slot in SLOTS if vars(model).get(slot) is not None}
        store = FunctionStore(made=made)
        object.__setattr__(model, "function_store", store)
    return store


class ModelFunctions:
    """Mixin that gives a model several sets of compiled functions."""


def _make(slot: str) -> Callable[..., Any]:
    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _own_step(self, SLOTS[slot]):
            return getattr(super(ModelFunctions, self), make.__name__)(*args, **kwargs)

    make.__name__ = f"make_{slot}"
    return make


def _slot(slot: str) -> property:
    def get(self: Any) -> Any:
        if not hasattr(self, f"make_{slot}"):
            raise AttributeError(f"{type(self).__name__} has no attribute {slot!r}")
        with _making_lock:
            store = store_of(self)
            function, optimizer = store.now.get(slot, (None, None))
            if optimizer is not _optimizer(self, slot):
                function = None
            if function is None and slot in store.made and not _making.get():
                getattr(self, f"make_{slot}")()
                function = store.now[slot][0]
        if slot == "train_function" and function is not None and not store.trains:
            return _returns_state(self, slot, partial(_refuse_to_train, self))
        ids = current_mode().ids
        if slot == "generate_function" and function is not None and ids is not None:
            return _with_ids(function, ids)
        return function

    def put(self: Any, function: Any) -> None:
        with _making_lock:
            store = store_of(self)
            if function is None:  # `compile` and others: functions of this name are out of date
                store.made.discard(slot)
                store.per_sample.clear()
                for found in store.functions.values():
                    found.pop(slot, None)
                return
            store.made.add(slot)
            store.now[slot] = _prepared(self, slot, function), _optimizer(self, slot)

    return property(get, put)


for _name in SLOTS:
    setattr(ModelFunctions, _name, _slot(_name))
    setattr(ModelFunctions, f"make_{_name}", _make(_name))


def _prepared(model: Any, slot: str, function: Any) -> Any:
    """Return a function that Keras made as the model stores it."""
    if SLOTS[slot] is None:
        return function
    if slot == "train_function":
        function = builds_first(model, function)
    return _returns_state(model, slot, function)


def check_trains(model: Any) -> None:
    """Raise an error if nothing in a model would train."""
    if model.built and not model.trainable_weights:
        weights = [each for *_, each in store_of(model).active if each is not None]
        if weights:
            raise ValueError(
                "The adapters with weights are frozen, so no value of the model trains: name those "
                "that train, as in `set_adapter(model, {'a': 0.4, 'b': 1.0}, train='b')`. "
                f"Received: a call of `fit` on {model.name!r} with {weights[0].on_host()}"
            )
        raise ValueError(
            "No adapter is active, so no value of the model trains: activate one with "
            f"`set_adapter(model, name)`. Received: a call of `fit` on {model.name!r}"
        )


def _refuse_to_train(model: Any, *args: Any) -> Any:
    check_trains(model)


def _optimizer(model: Any, slot: str) -> Any:
    return getattr(model, "optimizer", None) if slot == "train_function" else None


@contextmanager
def _own_step(model: Any, step: str | None) -> Iterator[None]:
    """Context manager: functions that are made have a step that equals no other function.

    JAX stores what it traced by function, and bound methods of one model are equal: a function
    made for another mode would reuse the trace of this one (Keras 3.0 and later).
    """
    with _making_lock:
        if step is not None:
            method = getattr(type(model), step)
            object.__setattr__(model, step, lambda *args, **kwargs: method(model, *args, **kwargs))
        try:
            with with_value(_making, True):
                yield
        finally:
            if step is not None:
                vars(model).pop(step, None)


def _with_ids(function: Callable[..., Any], ids: AdapterIds) -> Callable[..., Any]:
    """Return a function that passes the adapter of each prompt on, as an input."""

    def generate(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return function({**inputs, IDS: ids.ids}, *args, **kwargs)

    return generate


def _returns_state(model: Any, slot: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives variables their values back if it fails.

    On JAX, Keras takes the values out of the variables before a loop. A batch that cannot be
    read would leave the model without them.
    """

    if keras.backend.backend() != "jax":
        return function

    def step(state: Any, iterator: Any) -> Any:
        try:
            return function(state, iterator)
        except BaseException:
            lists = [model.trainable_variables, model.non_trainable_variables]
            lists += [model.optimizer.variables] if slot == "train_function" else []
            lists += [model.metrics_variables] if slot != "predict_function" else []
            for variables, values in zip(lists, state, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    if stored_value(variable) is None and not value.is_deleted():
                        initialize(variable, value)
            raise

    return step
