"""Paths of variables that are made outside of the layer to which they belong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import keras


@contextmanager
def name_scopes(path: str) -> Iterator[None]:
    """Within, new variables have a path under that of a layer."""
    with ExitStack() as stack:
        for part in path.split("/"):
            stack.enter_context(keras.name_scope(part))
        yield
