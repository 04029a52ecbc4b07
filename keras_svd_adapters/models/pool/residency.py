"""Which adapters are in which slots: the least recently used ones make room."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager


class Residency:
    """The names in the slots of a pool.

    A thread pins the names of its batch. No other thread takes their slots until the batch is done.

    Args:
        slots: Number of slots.
    """

    def __init__(self, slots: int):
        self.count = slots
        self.loads = 0  # how often a slot was filled
        self._slots: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._pins: Counter[int] = Counter()
        self._changed = threading.Condition()

    @property
    def names(self) -> tuple[str, ...]:
        """The names in slots, the least recently used first."""
        with self._changed:
            return tuple(self._slots)

    @contextmanager
    def pinned(
        self, names: Collection[str], load: Callable[[int, str], None]
    ) -> Iterator[dict[str, int]]:
        """Context manager: these names, at most as many as there are slots, stay in slots.

        If other threads use the slots that are needed, the thread waits for them.

        Args:
            names: The names.
            load: Function that fills a slot for a name.

        Yields:
            The slot of each name.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(names))
            for name in names:
                if name in self._slots:
                    self._slots.move_to_end(name)
            for name in names:
                if name not in self._slots:
                    slot = self._freed(names)
                    load(slot, name)
                    self.loads += 1
                    self._slots[name] = slot
            places = {name: self._slots[name] for name in names}
            self._pins.update(places.values())
        try:
            yield places
        finally:
            with self._changed:
                self._pins.subtract(places.values())
                self._pins += Counter()  # without zeros
                self._changed.notify_all()

    def discard(self, name: str) -> None:
        """Remove a name; a batch that uses its slot keeps the slot until it is done."""
        with self._changed:
            self._slots.pop(name, None)
            self._changed.notify_all()

    def _has_room(self, names: Collection[str]) -> bool:
        missing = sum(name not in self._slots for name in names)
        return missing <= len(self._free()) + len(self._evictable(names))

    def _freed(self, names: Collection[str]) -> int:
        """Return a slot without a name; if all have one, the least recently used loses its own."""
        if free := self._free():
            return free[0]
        return self._slots.pop(self._evictable(names)[0])

    def _free(self) -> list[int]:
        taken = {*self._slots.values(), *self._pins}
        return [slot for slot in range(self.count) if slot not in taken]

    def _evictable(self, names: Collection[str]) -> list[str]:
        slots = self._slots.items()
        return [name for name, slot in slots if name not in names and slot not in self._pins]
