"""Search for the live models that contain a layer."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import compress

import keras

from keras_svd_adapters.runtime.keras_private.traversal import all_layers

_models_found: ContextVar[list[keras.Model] | None] = ContextVar("_models_found", default=None)


def models_containing(layers: list[keras.layers.Layer]) -> list[keras.Model]:
    """Return every live model that contains one of these layers.

    A layer does not know its parents, and a backbone does not know its task. The function therefore
    searches the live objects, once per change of the adapters.
    """
    wanted = {id(layer) for layer in layers}
    return [model for model in _live_models() if any(id(x) in wanted for x in all_layers(model))]


def _live_models() -> list[keras.Model]:
    found = _models_found.get()
    if found is None:
        live, classes = gc.get_objects(), set(map(id, _with_subclasses(keras.Model)))
        found = list(compress(live, map(classes.__contains__, map(id, map(type, live)))))
    return found


def _with_subclasses(cls: type) -> set[type]:
    return {cls}.union(*map(_with_subclasses, cls.__subclasses__()))


@contextmanager
def cached_model_search() -> Iterator[None]:
    """Context manager: search the live objects only once.

    A search takes 0.1 s. Code within this context must create no model.
    """
    token = _models_found.set(_live_models())
    try:
        yield
    finally:
        _models_found.reset(token)
