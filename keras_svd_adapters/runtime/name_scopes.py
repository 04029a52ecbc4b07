"""Paths of variables that are created outside their layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import keras


@contextmanager
def name_scopes(path: str) -> Iterator[None]:
    """Context manager: create variables under the path of a layer."""
    with ExitStack() as stack:
        for part in path.split("/"):
            stack.enter_context(keras.name_scope(part))
        yield
