"""The layers of a model as few lines of text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from keras_svd_adapters.site import Site


def tree(sites: Iterable[Site]) -> str:
    """Paths with their numbers collapsed: `layer_{0..5}/query  EinsumDense (384, 12, 32)`."""
    groups: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for site in sites:
        shape = ", ".join(str(size) for size in site.shape)
        groups.setdefault((re.sub(r"\d+", "#", site.path), f"{site.kind} ({shape})"), []).append(
            tuple(re.findall(r"\d+", site.path))
        )
    lines = [(_expand(path, numbers), what) for (path, what), numbers in groups.items()]
    width = max((len(path) for path, _ in lines), default=0)
    return "\n".join(f"{path:<{width}}  {what}" for path, what in lines)


def alike(paths: Iterable[str]) -> dict[str, list[int]]:
    """Paths with their numbers collapsed, each with the places of those that it stands for."""
    places: dict[str, list[int]] = {}
    numbers: dict[str, list[tuple[str, ...]]] = {}
    for place, path in enumerate(paths):
        pattern = re.sub(r"\d+", "#", path)
        places.setdefault(pattern, []).append(place)
        numbers.setdefault(pattern, []).append(tuple(re.findall(r"\d+", path)))
    return {_expand(pattern, numbers[pattern]): found for pattern, found in places.items()}


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
