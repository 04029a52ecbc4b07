"""Functions that users compile themselves: which code is traced outside the loops of Keras."""

from __future__ import annotations

import os
import sys
from typing import Any

import keras

from keras_svd_adapters.runtime.warnings import package_folders

# Keras traces a layer from here: its loops, its shapes, its exports, and KerasHub's generation;
# and this package, in a pass of data through a model.
FILES = tuple(
    f"{os.sep}{part}" for part in ("trainer.py", f"export{os.sep}", f"observation{os.sep}")
)
OF_LIBRARIES = ("site-packages", "dist-packages", "autograph_generated", "<")
FUNCTIONS = ("compute_output_spec", "generate_step")


def place_of_user_function(inputs: Any) -> str | None:
    """Return the place of the user's code that is traced now, if not Keras compiles it.

    `None` also if nothing is traced. `torch.compile` traces again by itself.

    Args:
        inputs: A tensor of the function.
    """
    if not _is_traced(inputs):
        return None
    folders, place, frame = tuple(package_folders()), None, sys._getframe(1)
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if name.removeprefix("tf__") in FUNCTIONS:
            return None
        if file.startswith(folders):
            if any(part in file for part in FILES):
                return None
        elif place is None and not any(part in file for part in OF_LIBRARIES):
            place = f"{file}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return place


def _is_traced(value: Any) -> bool:
    """Return whether a function of this tensor is compiled now (JAX and TensorFlow)."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.inside_function())
    while keras.backend.backend() == "jax" and value is not None:
        if type(value).__name__ == "DynamicJaxprTracer":
            return True
        value = getattr(value, "primal", getattr(value, "val", None))  # of `grad` and `vmap`
    return False
