"""Mixin for models that several threads use, while one of them may change the adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import keras

from keras_svd_adapters.kernels.placement import is_replica
from keras_svd_adapters.models.state.compiled_functions import check_trains, store_of
from keras_svd_adapters.models.state.missing_schedule import warn_without_schedule
from keras_svd_adapters.runtime.threads.model_lock import model_lock

TRAINS = ("fit", "train_on_batch")
LOOPS = (*TRAINS, "evaluate", "test_on_batch", "predict", "predict_on_batch")


@contextmanager
def running(model: Any, alone: bool = False) -> Iterator[None]:
    """Context manager: the adapters of a model do not change while this thread uses the model.

    Args:
        model: A model or layer.
        alone: Whether other threads must wait, as they must for Keras's loops on JAX: these take
            the values out of the variables.
    """
    if is_replica():  # the thread that started it holds the lock
        yield
        return
    with model_lock([model], alone=alone and keras.backend.backend() == "jax"):
        try:
            yield
        except BaseException:
            if alone and hasattr(model, "jax_state_sync"):
                model.jax_state_sync()
            raise


class LockedModel:
    """Mixin that holds the lock of a model while the model computes."""


def _locked(name: str, alone: bool) -> Callable[..., Any]:
    @wraps(getattr(keras.Model, name, None) or _locked)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        function = getattr(super(LockedModel, self), name)
        if name == "fit":
            warn_without_schedule(self, function, args, kwargs)
        with running(self, alone), _fitting(self) if name in TRAINS else nullcontext():
            return function(*args, **kwargs)

    return method


for _name in (*LOOPS, "__call__"):
    setattr(LockedModel, _name, _locked(_name, alone=_name in LOOPS))


@contextmanager
def _fitting(model: Any) -> Iterator[None]:
    """Context manager: a model trains. If nothing would train, raise an error."""
    check_trains(model)
    store = store_of(model)
    store.fits += 1
    try:
        yield
    finally:
        store.fits -= 1
        while store.at_end and not store.fits:
            store.at_end.pop()()
