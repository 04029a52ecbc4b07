"""Values that code has while it runs, in its thread and its asynchronous task alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def with_value(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Context manager: a context variable has a value, and then the one that it had before."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
