"""The oldest version of Keras that the package works with; an older one is refused on import."""

from __future__ import annotations

import keras

OLDEST = "3.10"


def version_numbers(version: str) -> list[int]:
    """Return the numbers of a version; a part with letters counts as 0."""
    return [int(part) if part.isdigit() else 0 for part in version.split(".")]


if version_numbers(keras.__version__) < version_numbers(OLDEST):
    raise ImportError(
        f"keras_svd_adapters needs Keras {OLDEST} or newer: `pip install 'keras>={OLDEST}'`. "
        f"Received: Keras {keras.__version__}"
    )
