"""Several processes that hold one model together, as `keras.distribution.initialize` joins them.

What each would do alone, reading a file or drawing a seed, one does for all, and its result or its
error comes to each: an error in one alone would leave the others waiting. All must call in the
same order.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops

Made = TypeVar("Made")
PART = 2**26  # bytes that are sent at a time, by way of the devices


def process_count() -> int:
    """How many processes hold a model together: one, but for JAX with a distribution."""
    if keras.backend.backend() != "jax" or keras.distribution.distribution() is None:
        return 1
    import jax

    return int(jax.process_count())


def process_index() -> int:
    """Which of them this one is, from 0."""
    if process_count() == 1:
        return 0
    import jax

    return int(jax.process_index())


def broadcast_from(owner: int, make: Callable[[], Made]) -> Made:
    """What one process makes, or the error that it raises, on every process."""
    if process_count() == 1:
        return make()
    made, error = pickle.loads(_sent(owner, _attempt(make) if process_index() == owner else b""))
    if error is not None:
        raise error
    return made  # type: ignore[no-any-return]


def run_on_each(work: Callable[[], Any]) -> None:
    """Has every process do a work in which none waits for another; an error of one is all's."""
    if process_count() == 1:
        work()
        return
    done = _attempt(work)
    for i in range(process_count()):
        _, error = pickle.loads(_sent(i, done if process_index() == i else b""))
        if error is not None:
            raise error


def minimum(number_of_this: Callable[[], int]) -> int:
    """The least of the numbers that the processes have, each a part where they share a machine."""
    if process_count() == 1:
        return number_of_this()
    machines = [broadcast_from(i, socket.gethostname) for i in range(process_count())]
    beside = machines.count(machines[process_index()])
    return min(
        broadcast_from(i, lambda: max(1, number_of_this() // beside))
        for i in range(process_count())
    )


def gather_to_host(value: Any) -> np.ndarray:
    """A tensor on the host; where several processes hold parts of it, each device has it whole."""
    if getattr(value, "is_fully_addressable", True) or value.is_fully_replicated:
        return ops.convert_to_numpy(value)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(value, tiled=True))


def _attempt(make: Callable[[], Any]) -> bytes:
    """A result and no error, or the other way round, as bytes that can be read back."""
    try:
        return pickle.dumps((make(), None))
    except Exception as error:
        try:
            data = pickle.dumps((None, error))
            pickle.loads(data)
        except Exception:
            data = pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
        return data


def _sent(owner: int, data: bytes) -> bytes:
    """The bytes of one process; sums of integers of which all but one are 0 are exact."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    ours = process_index() == owner
    size = np.array(divmod(len(data), PART), "uint32")
    whole, rest = (int(n) for n in broadcast_one_to_all(size, is_source=ours))
    parts = []
    for place, length in enumerate([PART] * whole + [rest] * bool(rest)):
        words: np.ndarray = np.zeros(-(-length // 4), "uint32")
        if ours:
            part = data[place * PART : place * PART + length]
            words.view("uint8")[:length] = np.frombuffer(part, "uint8")
        words = np.asarray(broadcast_one_to_all(words, is_source=ours))
        parts.append(words.view("uint8")[:length].tobytes())
    return b"".join(parts)
