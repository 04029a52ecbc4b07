"""Warnings that point to the user's line, at any call depth."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path

PACKAGES = (__name__.partition(".")[0], "keras", "keras_hub")


def warn(message: str) -> None:
    """Warn at the nearest line outside this package, Keras and KerasHub."""
    inside = (contextlib.__file__, *package_folders())
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def package_folders() -> list[str]:
    """Return the folders of the imported packages, each with a slash at its end."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in PACKAGES]
    return [str(Path(file).parent) + os.sep for file in files if file]
