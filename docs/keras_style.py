"""An extension of griffe: examples in the style of Keras, `Example:` with `>>>` below it."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:\n\n((?:(?:>>>|\.\.\.|\S).*\n?)+)", re.MULTILINE)


class KerasStyle(griffe.Extension):
    """Makes of them the section that google style knows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(_as_section, obj.docstring.value)


def _as_section(found: re.Match[str]) -> str:
    lines = found[1].rstrip("\n").splitlines()
    return "Examples:\n" + "\n".join(f"    {line}" for line in lines) + "\n"
