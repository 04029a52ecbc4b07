"""Several processes that hold one model together, as `keras.distribution.initialize` joins them.

What each would do alone, reading a file or drawing a seed, one does for all, and its result or its
error comes to each: an error in one alone would leave the others waiting. All must call in the
same order.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops

Made = TypeVar("Made")
WORD = 4  # bytes; sums of words of which all but one are zero are exact, as those of floats are not


def count() -> int:
    """How many processes hold a model together: one, but for JAX with a distribution."""
    if keras.backend.backend() != "jax" or keras.distribution.distribution() is None:
        return 1
    import jax

    return int(jax.process_count())


def number() -> int:
    """Which of them this one is, from 0."""
    if count() == 1:
        return 0
    import jax

    return int(jax.process_index())


def from_process(owner: int, make: Callable[[], Made]) -> Made:
    """What one process makes, or the error that it raises, on every process."""
    if count() == 1:
        return make()
    made: Any = None
    error: Exception | None = None
    if number() == owner:
        try:
            made = make()
        except Exception as raised:
            error = raised
    made, error = _sent(owner, (made, error))
    if error is not None:
        raise error
    return made


def gathered(value: Any) -> np.ndarray:
    """A tensor on the host, of which several processes may hold a part each."""
    if getattr(value, "is_fully_addressable", True) or value.is_fully_replicated:
        return ops.convert_to_numpy(value)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(value, tiled=True))


def _sent(owner: int, what: Any) -> Any:
    from jax.experimental.multihost_utils import broadcast_one_to_all

    ours = number() == owner
    data = pickle.dumps(what) if ours else b""
    size = int(broadcast_one_to_all(np.uint32(len(data)), is_source=ours))
    words: np.ndarray = np.zeros(-(-size // WORD), "uint32")
    if ours:
        words.view("uint8")[:size] = np.frombuffer(data, "uint8")
    words = np.asarray(broadcast_one_to_all(words, is_source=ours))
    return pickle.loads(words.view("uint8")[:size].tobytes())
