"""The live models, and the search for those that contain a layer."""

from __future__ import annotations

import gc
import threading
from functools import wraps
from itertools import compress
from typing import Any
from weakref import WeakSet

import keras

from keras_svd_adapters.runtime.keras_private.layers import all_layers

_live: WeakSet[keras.Model] = WeakSet()
_lock = threading.Lock()


def watch_models() -> None:
    """Note every model that exists and every model that is made from now on; called at import.

    A search among all live objects would need no note. But it holds tuples that other threads
    are just making, and Python then fails in those threads.
    """
    original = keras.Model.__new__
    if getattr(original, "is_watched", False):
        return
    live, classes = gc.get_objects(), _with_subclasses(keras.Model)
    _live.update(compress(live, map(classes.__contains__, map(type, live))))

    @wraps(original)
    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        model = original(cls, *args, **kwargs)
        with _lock:
            _live.add(model)
        return model

    new.is_watched = True  # type: ignore[attr-defined]
    keras.Model.__new__ = new


def _with_subclasses(cls: type) -> set[type]:
    return {cls}.union(*map(_with_subclasses, cls.__subclasses__()))


watch_models()


def with_models_around(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return a model and the models that share layers with it, such as the task of a backbone."""
    found = [model, *models_containing(all_layers(model))]
    return list({id(each): each for each in found}.values())


def live_models() -> list[keras.Model]:
    """Return every live model; models of this package, which have `is_internal`, do not count."""
    with _lock:
        live = list(_live)
    return [model for model in live if not getattr(model, "is_internal", False)]


def models_containing(layers: list[keras.layers.Layer]) -> list[keras.Model]:
    """Return every live model that contains one of these layers.

    A layer does not know its parents, and a backbone does not know its task. The function therefore
    looks into all live models.
    """
    wanted = {id(layer) for layer in layers}
    return [model for model in live_models() if any(id(x) in wanted for x in all_layers(model))]
