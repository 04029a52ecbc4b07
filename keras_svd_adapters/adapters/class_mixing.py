"""Mixins added to an existing object.

The object's class changes to a subclass of the same name. Paths, checkpoints, layout maps and
`isinstance` therefore keep working. Replacing a layer in its parent would break them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

from keras_svd_adapters.runtime.keras_private.layers import serialize_as

_grafted: dict[tuple[type, type], type] = {}
_parts: dict[type, tuple[type, type]] = {}  # the mixin and the class before it, of each class made


def add_mixin(target: Any, mixin: type, serialized_as: str | None = None) -> None:
    """Put `mixin` before the class of an object, under the class's own name.

    Args:
        target: A layer or model.
        mixin: The class whose methods come first.
        serialized_as: Registered name of the new class in configurations.
            Without it, configurations name the old class.
    """
    base = type(target)
    grafted = _grafted.get((mixin, base))
    if grafted is None:
        grafted = type(base.__name__, (mixin, base), {"__module__": base.__module__})
        grafted.__qualname__ = base.__qualname__
        _grafted[mixin, base] = grafted
        _parts[grafted] = mixin, base
        serialize_as(grafted, base, serialized_as)
    object.__setattr__(target, "__class__", grafted)


def add_mixin_first(target: Any, mixin: type) -> None:
    """Put `mixin` before the original class of an object, after the mixins that it has already."""
    now, later = type(target), []
    while now in _parts:
        added, now = _parts[now]
        later.append(added)
    object.__setattr__(target, "__class__", now)
    for each in (mixin, *reversed(later)):
        add_mixin(target, each)


@cache
def with_signature_of(cls: type, mixin: type) -> type:
    """Return a mixin whose `call` has the signature of that of a class, which Keras reads."""

    @wraps(cls.call)  # type: ignore[attr-defined]
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return mixin.call(self, *args, **kwargs)  # type: ignore[attr-defined]

    return type(mixin.__name__, (mixin,), {"call": call})


def remove_mixin(target: Any, mixin: type) -> None:
    """Undo `add_mixin`; mixins that were added later stay."""
    if not isinstance(target, mixin):
        return
    now, later = type(target), []
    while not issubclass(_parts[now][0], mixin):
        added, now = _parts[now]
        later.append(added)
    object.__setattr__(target, "__class__", _parts[now][1])
    for added in reversed(later):
        add_mixin(target, added)


@contextmanager
def without_mixin(target: Any, mixin: type) -> Iterator[None]:
    """Context manager: an object has the class that it had before `add_mixin`."""
    now = type(target)
    object.__setattr__(target, "__class__", original_class(target, mixin))
    try:
        yield
    finally:
        object.__setattr__(target, "__class__", now)


def class_without_mixins(target: Any) -> type:
    """Return the class that an object had before the first `add_mixin`."""
    now = type(target)
    while now in _parts:
        now = _parts[now][1]
    return now


def original_class(target: Any, mixin: type) -> type:
    """Return the class that an object had before `add_mixin`."""
    order = type(target).__mro__
    return order[order.index(mixin) + 1] if mixin in order else order[0]
