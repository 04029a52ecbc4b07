"""Mixins that an object gets after it was made.

Its class changes to a subclass of the same name: paths, checkpoints, layout maps and `isinstance`
stay as they were, which replacing a layer in its parent would break.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras_svd_adapters.runtime.keras_private.layers import serialize_as

_grafted: dict[tuple[type, type], type] = {}


def add_mixin(target: Any, mixin: type, serialized_as: str | None = None) -> None:
    """Puts `mixin` before the class of an object, under the class's own name.

    Args:
        target: A layer or model.
        mixin: The class whose methods come first.
        serialized_as: Registered name under which configurations name the new
            class; without, they name the old one.
    """
    base = type(target)
    grafted = _grafted.get((mixin, base))
    if grafted is None:
        grafted = type(base.__name__, (mixin, base), {"__module__": base.__module__})
        grafted.__qualname__ = base.__qualname__
        _grafted[mixin, base] = grafted
        serialize_as(grafted, base, serialized_as)
    object.__setattr__(target, "__class__", grafted)


def remove_mixin(target: Any, mixin: type) -> None:
    """Takes back `add_mixin`."""
    if isinstance(target, mixin):
        object.__setattr__(target, "__class__", original_class(target, mixin))


@contextmanager
def without_mixin(target: Any, mixin: type) -> Iterator[None]:
    """Within, an object has the class that it had before `add_mixin`."""
    now = type(target)
    object.__setattr__(target, "__class__", original_class(target, mixin))
    try:
        yield
    finally:
        object.__setattr__(target, "__class__", now)


def original_class(target: Any, mixin: type) -> type:
    """The class that an object had before `add_mixin`."""
    order = type(target).__mro__
    return order[order.index(mixin) + 1] if mixin in order else order[0]
