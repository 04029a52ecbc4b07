"""The warning that a method trains without its schedule or its rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.compiled_functions import store_of
from keras_svd_adapters.runtime.warnings import warn


def warn_without_schedule(model: Any, fit: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Warn once of each method whose `schedule` is neither a callback nor a rule of this `fit`."""
    methods = {
        adapter.method
        for site in adapted_sites(model)
        for name, adapter in adapters_of(site.layer).items()
        if name in site.layer.trained_adapters and adapter.method.schedule
    }
    methods -= store_of(model).told
    if not methods:
        return
    given = signature(fit).bind_partial(*args, **kwargs).arguments
    callbacks = given.get("callbacks") or given.get("kwargs", {}).get("callbacks") or []
    there = set(_names(callbacks)) | set(_names(_rules(model.optimizer)))
    for method in methods:
        if method.schedule not in there:
            store_of(model).told.add(method)
            warn(
                f"{type(method).__name__} trains without its `{method.schedule}`, which is neither "
                "a callback of this `fit` nor a rule of the optimizer. "
                f"`help(keras_svd_adapters.{method.schedule})` says how to use it. "
                f"Received: {method}"
            )


def _names(objects: Any) -> Iterable[str]:
    listed = getattr(objects, "callbacks", objects)  # of a `CallbackList`
    listed = listed if isinstance(listed, list | tuple) else [listed]
    return (cls.__name__ for each in listed for cls in type(each).__mro__)


def _rules(optimizer: Any) -> list[Any]:
    found: list[Any] = []
    while optimizer is not None:
        found += getattr(optimizer, "rules", ())
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return found
