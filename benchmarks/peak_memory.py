"""Resident memory while a block runs."""

from __future__ import annotations

import threading
import time


class PeakMemory:
    """The most resident memory while a block runs, above that before it, in bytes."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = resident()
        self.running = True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.peak = max(self.peak, resident())
            time.sleep(0.001)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()

    @property
    def bytes(self) -> int:
        return self.peak - self.start


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
