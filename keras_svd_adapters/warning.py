"""Warnings that point to the line of the user, however deep they come from."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

INSIDE = (
    str(Path(__file__).parent),
    str(Path("keras") / "src"),
    str(Path("keras_hub") / "src"),
    "contextlib.py",
)


def warn(message: str) -> None:
    """Warns at the nearest line outside this package, Keras and KerasHub."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and any(part in frame.f_code.co_filename for part in INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
