"""Groups of layer paths that differ only in numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def group_similar_paths(paths: Iterable[str]) -> dict[str, list[int]]:
    """Map each path with collapsed numbers to the indices of the paths in its group."""
    return {path: places for path, _, places in group_paths((path, "") for path in paths)}


def by_layer_name(paths: Iterable[str]) -> dict[str, list[int]]:
    """Group the indices of paths by the layer name at the end of each path."""
    places: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        places.setdefault(path.rsplit("/", 1)[-1], []).append(place)
    return places


def group_paths(items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any, list[int]]]:
    """Group items whose paths differ only in numbers and whose second values are equal.

    Each group is a path with collapsed numbers, the second value and the indices of its items.
    """
    places: dict[tuple[str, Any], list[int]] = {}
    numbers: dict[tuple[str, Any], list[tuple[str, ...]]] = {}
    for place, (path, what) in enumerate(items):
        key = re.sub(r"\d+", "#", path), what
        places.setdefault(key, []).append(place)
        numbers.setdefault(key, []).append(tuple(re.findall(r"\d+", path)))
    return [(_expand(key[0], numbers[key]), key[1], found) for key, found in places.items()]


def _expand(path: str, numbers: list[tuple[str, ...]]) -> str:
    for column in zip(*numbers, strict=True):
        values = sorted({int(number) for number in column})
        path = path.replace("#", _collapse(values), 1)
    return path


def _collapse(values: list[int]) -> str:
    if len(values) == 1:
        return str(values[0])
    if values == list(range(values[0], values[-1] + 1)):
        return f"{{{values[0]}..{values[-1]}}}"
    return "{" + ",".join(map(str, values)) + "}"
