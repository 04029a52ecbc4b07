"""Measures how much memory one gradient pass needs above the model, on PyTorch.

Its own process hands each block of memory back as soon as it is free (`run.py` sets
`MALLOC_MMAP_THRESHOLD_`), so that resident memory is what is in use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import peers
from cases import CASES, CHOSEN
from passes import prepare
from peak_memory import PeakMemory


def peak(run: Callable[[], Any]) -> int:
    """Bytes of the worst of three passes, after one that fills what is kept."""
    run()
    found = []
    for _ in range(3):
        with PeakMemory() as memory:
            run()
        found.append(memory.bytes)
    return max(found)


def main() -> None:
    results: dict[str, dict[str, int]] = {}
    for key in ("1024x1024", "512x4096", "stack"):
        results[key] = {}
        for name in dict.fromkeys(["frozen", *CHOSEN[key]]):
            results[key][name] = peak(prepare(CASES[key], name, forward=False)[0])
        results[key] |= {name: peak(run) for name, run in peers.runs(key).items()}
        print(key, {k: f"{v / 1e6:.0f} MB" for k, v in results[key].items()}, file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
