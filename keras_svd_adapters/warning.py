"""Warnings that point to the line of the user, however deep they come from."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

PACKAGES = (__package__ or "", "keras", "keras_hub")


def warn(message: str) -> None:
    """Warns at the nearest line outside this package, Keras and KerasHub."""
    inside = (contextlib.__file__, *_folders())
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _folders() -> list[str]:
    """The folders of the packages that are there, each with a slash at its end."""
    specs = [find_spec(name) for name in PACKAGES]
    return [str(Path(spec.origin).parent) + os.sep for spec in specs if spec and spec.origin]
