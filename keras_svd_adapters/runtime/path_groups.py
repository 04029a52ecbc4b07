"""Groups of layer paths that differ only in numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar


class HasPath(Protocol):
    """A row of a report, which has the path of a layer."""

    @property
    def path(self) -> str: ...


Row = TypeVar("Row", bound=HasPath)


def group_similar_paths(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group rows whose paths differ only in numbers, by the path with collapsed numbers."""
    groups = group_paths((row.path, "") for row in rows)
    return {path: [rows[place] for place in places] for path, _, places in groups}


def by_layer_name(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group rows by the layer name at the end of their paths."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.path.rsplit("/", 1)[-1], []).append(row)
    return groups


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
