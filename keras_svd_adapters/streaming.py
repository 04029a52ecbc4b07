"""Presets on disk that become adapted models without a second copy of a weight in memory.

KerasHub fills every weight with random values and replaces these by those of the file. Here a
model is made of shapes, and each weight's first value is the one that the file has.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.blueprint import require_keras_hub
from keras_svd_adapters.enable import enable
from keras_svd_adapters.keras_internals import (
    direct_weights,
    give_first_value,
    loads_plainly,
    refresh_torch_parameters,
    shapes_only,
    walk,
    weights_store,
)
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.preset import load_adapters

ONE_FILE, SEVERAL_FILES, OF_TASK = "model.weights.h5", "model.weights.json", "task.weights.h5"


def from_preset(
    preset: str | os.PathLike[str], method: Method | None = None, cls: Any = None, **how: Any
) -> keras.Model:
    """Loads a KerasHub preset from a directory, and adapts it.

    As `cls.from_preset(preset)` and `enable`, in less memory: while it loads,
    no more than the model and its largest weight. What the preset has of
    adapters comes along.

    Args:
        preset: A directory that `save_to_preset` wrote, or a download of a
            preset of Keras. Those of other libraries, such as safetensors, are
            for `cls.from_preset`.
        method: A method such as `SVFT(pattern="banded", d=2)`; `None` to load
            alone.
        cls: The class to load, such as `keras_hub.models.GemmaCausalLM`; by
            default `keras_hub.models.Backbone`, which knows by itself.
        **how: `dtype` for the model, and the arguments of `enable`.

    Returns:
        The model.

    Raises:
        ValueError: If it is no such directory, or as `enable` does.
    """
    folder = Path(preset)
    files = [folder / name for name in (ONE_FILE, SEVERAL_FILES) if (folder / name).exists()]
    if not files or (folder / OF_TASK).exists():
        raise ValueError(
            f"`from_preset` reads a directory with {ONE_FILE} or {SEVERAL_FILES}, and without "
            f"{OF_TASK}: load any other by `keras_hub.models.Backbone.from_preset` or that of its "
            f"task, and `enable` then. Received: {str(preset)!r}"
        )
    keras_hub = require_keras_hub(preset)
    cls = keras_hub.models.Backbone if cls is None else cls
    options = {"dtype": how.pop("dtype")} if "dtype" in how else {}
    with shapes_only() as waiting:
        model = cls.from_preset(os.fspath(preset), load_weights=False, **options)
    _fill(getattr(model, "backbone", model), files[0])
    for variable in waiting:
        give_first_value(variable)
    refresh_torch_parameters(model)
    load_adapters(model, os.fspath(preset))
    if method is not None:
        enable(model, method, **how)
    return model


def _fill(model: keras.Model, file: Path) -> None:
    """Gives each weight its first value, from a file of weights."""
    with weights_store(file) as store:
        for key, chain in walk(model):
            weights = direct_weights(chain[-1])
            if not weights:
                continue
            values = store.get(key)
            if loads_plainly(chain[-1]) and len(values.keys()) == len(weights):
                for index, weight in enumerate(weights):
                    give_first_value(weight, np.asarray(values[str(index)]))
            else:
                for weight in weights:
                    give_first_value(weight, np.zeros(weight.shape, "float32"))
                chain[-1].load_own_variables(values)
