"""The oldest version of Keras that the package works with; an older one is refused on import."""

from __future__ import annotations

import keras

OLDEST = (3, 10)

if tuple(int(part) for part in keras.__version__.split(".")[:2]) < OLDEST:
    wanted = ".".join(map(str, OLDEST))
    raise ImportError(
        f"keras_svd_adapters needs Keras {wanted} or newer: `pip install 'keras>={wanted}'`. "
        f"Received: Keras {keras.__version__}"
    )
