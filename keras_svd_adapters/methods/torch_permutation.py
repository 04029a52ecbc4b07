"""The first entries of a random permutation of PyTorch, without PyTorch.

PyTorch's generator on the host is MT19937, seeded as NumPy's `RandomState`, whose numbers are equal
in every NumPy. A permutation swaps entry `i` with a random one of the entries from `i` on. From
`LARGE` entries on, it instead puts `i` at a random one of the places up to `i`, and what was there
at place `i`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

LARGE = (2**32 - 1) // 20
CHUNK = 2**22


@lru_cache(maxsize=64)
def first_of_permutation(size: int, count: int, seed: int) -> np.ndarray:
    """Return the first `count` entries of PyTorch's random permutation of `range(size)`."""
    random = np.random.RandomState(seed % 2**32)
    found = _placed(size, count, random) if size >= LARGE else _swapped(size, count, random)
    found.flags.writeable = False
    return found


def _swapped(size: int, count: int, random: np.random.RandomState) -> np.ndarray:
    steps = np.arange(count)
    places = steps + _bits(random, count) % (size - steps)
    moved: dict[int, int] = {}  # the entries that swaps put elsewhere, by place
    found: np.ndarray = np.empty(count, "int64")
    for step, place in enumerate(places.tolist()):
        found[step] = moved.get(place, place)
        moved[place] = moved.get(step, step)
    return found


def _placed(size: int, count: int, random: np.random.RandomState) -> np.ndarray:
    found: np.ndarray = np.zeros(count, "int64")
    for start in range(0, size, CHUNK):
        steps: np.ndarray = np.arange(start, min(start + CHUNK, size)).astype("uint64")
        halves: np.ndarray = _bits(random, 2 * len(steps)).astype("uint64")
        places = (halves[::2] << np.uint64(32) | halves[1::2]) % (steps + np.uint64(1))
        seen = (steps < count) | (places < count)
        for step, place in zip(steps[seen].tolist(), places[seen].tolist(), strict=True):
            if step < count:
                found[step] = found[place]
            found[place] = step
    return found


def _bits(random: np.random.RandomState, count: int) -> np.ndarray:
    """Return the next numbers of 32 random bits."""
    return random.randint(2**32, size=count, dtype="uint32").astype("int64")
