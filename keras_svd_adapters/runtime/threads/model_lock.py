"""Locks of models: many threads may use a model at once, and one thread alone may change it.

One condition variable guards the records of all models, so a thread acquires several models at
once or none. A thread that already holds a lock may acquire others, in any order: a wait that
could never end raises an error instead.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

PATIENCE = 1.0  # seconds for which a thread that would use a model lets others change it first
_changed = threading.Condition()
_waits_for: dict[int, Callable[[], set[int]]] = {}  # which threads a waiting thread waits for


class _Holders:
    """The threads that hold the lock of one model, and those that wait to change the model."""

    def __init__(self) -> None:
        self.shared: Counter[int] = Counter()
        self.exclusive: Counter[int] = Counter()
        self.waiting: Counter[int] = Counter()

    def blockers(self, thread: int, alone: bool, is_polite: bool) -> set[int]:
        """Return the threads for which this thread must wait.

        A thread that waits to change the model comes before new users, unless they are impatient.
        """
        found = set(self.exclusive)
        if alone:
            found |= set(self.shared)
        elif is_polite:
            found |= set(self.waiting)
        return found - {thread}


_holders: WeakKeyDictionary[Any, _Holders] = WeakKeyDictionary()
_held: Counter[int] = Counter()


@contextmanager
def model_lock(models: Sequence[Any], alone: bool) -> Iterator[None]:
    """Context manager: use these models together with other threads, or `alone`.

    Args:
        models: Models or layers. A thread may hold the lock of a model several times.
        alone: Whether other threads must not use the models at the same time.

    Raises:
        RuntimeError: If this thread and another one would wait for each other forever.
    """
    thread = threading.get_ident()
    with _changed:
        records = [_holders.setdefault(model, _Holders()) for model in models]
        held = "exclusive" if alone else "shared"
        waiting = [record.waiting for record in records if alone]
        deadline = time.monotonic() + PATIENCE

        def blockers() -> set[int]:
            is_polite = not _held[thread] and time.monotonic() < deadline
            return set().union(*(record.blockers(thread, alone, is_polite) for record in records))

        _add(waiting, thread, 1)
        try:
            while blockers():
                _waits_for[thread] = blockers
                _check_it_ends(thread)
                _changed.wait(PATIENCE)
        finally:
            _waits_for.pop(thread, None)
            _add(waiting, thread, -1)
            _changed.notify_all()
        _add([_held, *(getattr(record, held) for record in records)], thread, 1)
    try:
        yield
    finally:
        with _changed:
            _add([_held, *(getattr(record, held) for record in records)], thread, -1)
            _changed.notify_all()


def _add(counters: list[Counter[int]], thread: int, number: int) -> None:
    for counter in counters:
        counter[thread] += number
        if not counter[thread]:
            del counter[thread]


def _check_it_ends(thread: int) -> None:
    """Raise an error if a thread waits, directly or through others, for itself."""
    reached: set[int] = set()
    new = _waits_for[thread]()
    while new:
        reached |= new
        new = set().union(*(_waits_for[x]() for x in new if x in _waits_for)) - reached
    if thread in reached:
        raise RuntimeError(
            "Two threads use a model and both want to change it, so each would wait for the "
            "other: change the adapters in one thread only, or outside of `fit` and `predict`. "
            "Received: a change of adapters while another thread waits to make one"
        )
