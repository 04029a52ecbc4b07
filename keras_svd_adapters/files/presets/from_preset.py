"""Load presets from disk as adapted models, without a second copy of a weight in memory.

KerasHub fills every weight with random values, and then replaces them by the values of the file.
This module builds a model from shapes, and each weight's first value is that of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.files.presets.first_values import give_first_value, loads_plainly
from keras_svd_adapters.files.presets.loading import load_adapters
from keras_svd_adapters.kernels.layout_map import check_layouts
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import check_name, check_shapes, choose_methods
from keras_svd_adapters.models.attaching import paths_of
from keras_svd_adapters.models.enable import enable
from keras_svd_adapters.models.without_weights import require_keras_hub
from keras_svd_adapters.runtime.keras_private.layers import direct_weights, refresh_torch_parameters
from keras_svd_adapters.runtime.keras_private.tracing import shapes_only
from keras_svd_adapters.runtime.keras_private.variables import stored_value, weights_store
from keras_svd_adapters.runtime.layer_attributes import walk
from keras_svd_adapters.runtime.processes import run_on_each

ONE_FILE, SEVERAL_FILES, OF_TASK = "model.weights.h5", "model.weights.json", "task.weights.h5"
OF_BACKBONE = ("dtype", "image_shape")  # task arguments that KerasHub gives to the backbone


def from_preset(
    preset: str | os.PathLike[str], method: Method | None = None, cls: Any = None, **how: Any
) -> keras.Model:
    """Load a KerasHub preset from a directory and adapt it.

    The result equals that of `cls.from_preset(preset)` and `enable`, with less
    memory: loading needs not much more than the model and its largest weight.
    Adapters in the preset are loaded as well.

    Args:
        preset: A directory that `save_to_preset` wrote, or a download of a
            preset of Keras. Load presets of other libraries, such as
            safetensors, by `cls.from_preset`.
        method: A method such as `SVFT(pattern="banded", d=2)`; `None` to load
            only.
        cls: The class to load, such as `keras_hub.models.GemmaCausalLM`; by
            default `keras_hub.models.Backbone`, which finds the class itself.
        **how: The arguments of `enable`; all others go to `cls.from_preset`,
            such as `dtype="bfloat16"` or `num_classes=3`.

    Returns:
        The model.

    Raises:
        ValueError: If the preset is no such directory, its weights do not fit,
            or `enable` would raise an error. The errors of `enable` occur before
            a weight is read.
    """
    folder = Path(preset).resolve()
    files = [folder / name for name in (ONE_FILE, SEVERAL_FILES) if (folder / name).exists()]
    if not files:
        raise ValueError(
            f"`from_preset` reads a directory with {ONE_FILE} or {SEVERAL_FILES}: load another "
            "preset with `from_preset` of `keras_hub.models.Backbone` or a task, then call "
            f"`enable`. Received: {str(preset)!r}"
        )
    require_keras_hub(preset)
    options = {key: how.pop(key) for key in [*how] if key not in signature(enable).parameters}
    adapts = method is not None or isinstance(how.get("targets"), Mapping)
    if how and not adapts:
        raise ValueError(
            "Without a method, nothing is adapted: give one, as in `from_preset(preset, "
            f"SVFT())`, or leave out the arguments of `enable`. Received: {', '.join(how)}"
        )
    check = partial(_check, method=method, how=how) if adapts else None
    model = _load(folder, files[0], cls, options, check)
    load_adapters(model, str(folder), strict="num_classes" not in options)
    if adapts:
        enable(model, method, **how)
    return model


def _load(
    folder: Path, file: Path, cls: Any, options: dict[str, Any], check: Callable[..., None] | None
) -> keras.Model:
    """Return a backbone, or a task around one, with the values of the preset."""
    import keras_hub

    is_task = cls is not None and issubclass(cls, keras_hub.models.Task)
    build, own = cls or keras_hub.models.Backbone, options
    if is_task:
        build = keras_hub.models.Backbone
        own = {key: options.pop(key) for key in OF_BACKBONE if key in options}
    with shapes_only() as waiting:
        model = build.from_preset(str(folder), load_weights=False, **own)
    if check is not None and not is_task:
        check(model)
    run_on_each(lambda: _fill(model, file))
    for variable in waiting:
        give_first_value(variable)
    refresh_torch_parameters(model)
    if is_task:
        model = cls.from_preset(str(folder), load_weights=False, backbone=model, **options)
        if (folder / OF_TASK).exists() and "num_classes" not in options:
            model.load_task_weights(str(folder / OF_TASK))
    return model


def _check(model: keras.Model, method: Method | None, how: dict[str, Any]) -> None:
    """Raise the errors of `enable` about its arguments, before a weight is read."""
    bound = signature(enable).bind(model, method, **how)
    bound.apply_defaults()
    given = bound.arguments
    which = (given[name] for name in ("targets", "exclude", "layers", "last", "tied"))
    check_name(given["name"])
    chosen = choose_methods(model, method, *which)
    check_shapes(chosen)
    check_layouts(given["layout"], partial(paths_of, chosen, given["name"]))


def _fill(model: keras.Model, file: Path) -> None:
    """Give each weight its first value, from a file of weights."""
    try:
        with closing(weights_store(file)) as store:
            for key, chain in walk(model):
                _fill_layer(chain[-1], store.get(key))
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"The weights do not fit the model of this preset, or are damaged: {error}. Save or "
            f"fetch the preset again. Received: {str(file)!r}"
        ) from error
    if empty := [w.path for w in model.weights if stored_value(w) is None]:
        raise ValueError(
            f"The file has no values for {len(empty)} weights, such as {empty[0]}: load this "
            f"preset by KerasHub's `from_preset`. Received: {str(file)!r}"
        )


def _fill_layer(layer: keras.layers.Layer, values: Any) -> None:
    weights = direct_weights(layer)
    if weights and loads_plainly(layer) and len(values.keys()) == len(weights):
        for index, weight in enumerate(weights):
            give_first_value(weight, np.asarray(values[str(index)]))
    elif weights or values.keys():
        for weight in weights:
            give_first_value(weight)
        layer.load_own_variables(values)
