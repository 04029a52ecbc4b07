"""Several processes that hold one model together, joined by `keras.distribution.initialize`.

One process does common work for all, such as reading a file or drawing a seed. Every process
receives the result or the error. An error in one process alone would leave the others waiting. All
processes must call these functions in the same order.
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
PART = 2**26  # bytes per transfer, which passes through the devices


def process_count() -> int:
    """Return the number of processes that hold a model: one, except on JAX with a distribution."""
    if keras.backend.backend() != "jax" or keras.distribution.distribution() is None:
        return 1
    import jax

    return int(jax.process_count())


def process_index() -> int:
    """Return the index of this process, from 0."""
    if process_count() == 1:
        return 0
    import jax

    return int(jax.process_index())


def broadcast_from(owner: int, make: Callable[[], Made]) -> Made:
    """Return on every process the result of one process, or raise its error."""
    if process_count() == 1:
        return make()
    made, error = pickle.loads(_sent(owner, _attempt(make) if process_index() == owner else b""))
    if error is not None:
        raise error
    return made  # type: ignore[no-any-return]


def run_on_each(work: Callable[[], Any]) -> None:
    """Run work that waits for no other process on every process; raise any error on all of them."""
    if process_count() == 1:
        work()
        return
    done = _attempt(work)
    for i in range(process_count()):
        _, error = pickle.loads(_sent(i, done if process_index() == i else b""))
        if error is not None:
            raise error


def minimum(number_of_this: Callable[[], int]) -> int:
    """Return the least number over all processes; those on one machine divide their number."""
    if process_count() == 1:
        return number_of_this()
    machines = [broadcast_from(i, socket.gethostname) for i in range(process_count())]
    beside = machines.count(machines[process_index()])
    return min(
        broadcast_from(i, lambda: max(1, number_of_this() // beside))
        for i in range(process_count())
    )


def gather_to_host(value: Any) -> np.ndarray:
    """Return a tensor on the host.

    If several processes hold parts of the tensor, each device receives the whole tensor.
    """
    if getattr(value, "is_fully_addressable", True) or value.is_fully_replicated:
        return ops.convert_to_numpy(value)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(value, tiled=True))


def _attempt(make: Callable[[], Any]) -> bytes:
    """Return a result or an error as bytes that can be unpickled."""
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
    """Return the bytes of one process on every process.

    The transfer sums integers. All terms but one are 0, so the sum is exact.
    """
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
