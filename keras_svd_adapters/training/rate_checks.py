"""Checks before a search for a learning rate touches anything."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras

from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.runtime.keras_private.layers import all_layers

FEWEST = 10


def check_request(
    low: Any,
    high: Any,
    steps: Any,
    batch_size: Any,
    methods: list[Method] | None,
    how: dict[str, Any],
) -> None:
    """Raise an error if an argument is wrong."""
    if not (_is_rate(low) and _is_rate(high) and low < high):
        raise ValueError(
            "`low` and `high` must be positive numbers, the smaller one first, such as low=1e-5, "
            f"high=1e-1. Received: low={low!r}, high={high!r}"
        )
    for name, value, least in (("steps", steps, FEWEST), ("batch_size", batch_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}"
            )
    if methods is None and how:
        raise ValueError(
            f"{', '.join(how)}: these are arguments of `enable`, for `methods=[...]`. Leave them "
            f"out, or pass methods to compare. Received: methods=None, {how}"
        )


def listed_methods(methods: Any) -> list[Method] | None:
    """Return methods as a list; raise an error if they are something else."""
    listed = list(methods) if isinstance(methods, Iterable) else methods
    is_list = isinstance(listed, list) and bool(listed)
    if methods is not None and not (is_list and all(isinstance(m, Method) for m in listed)):
        raise ValueError(
            f"`methods` is a list such as `[LoRA(rank=8), SVF()]`. Received: methods={listed!r}"
        )
    return listed


def _is_rate(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0


def check_model(model: Any, methods: list[Method] | None) -> None:
    """Raise an error if a model cannot train at several rates."""
    compiled = getattr(model, "compiled", False) and model.optimizer is not None
    if not isinstance(model, keras.Model) or not compiled or not _is_built(model):
        raise ValueError(
            "The search trains a built and compiled Keras model: type `model.compile("
            "optimizer=keras.optimizers.Adam(), loss=...)` before, and if a layer is not built "
            f"yet, call the model on a batch. Received: {model!r}"
        )
    if methods is not None and adapted_sites(model):
        raise ValueError(
            "`methods` are compared on a model without adapters: leave `methods` out to find the "
            "rate of the active adapter, or remove all with `delete_adapter`. "
            f"Received: methods={methods}"
        )
    if methods is None and not model.trainable_variables:
        raise ValueError(
            "No weight of the model trains: activate an adapter with `set_adapter(model, name)`, "
            f"or pass `methods=[...]`. Received: {model!r}"
        )
    _check_rate(model.optimizer)


def _is_built(model: keras.Model) -> bool:
    """Return whether a model has all weights; of a `Sequential`, some layers may have none yet."""
    waiting = [
        part
        for layer in all_layers(model)
        if isinstance(layer, keras.Sequential)
        for part in layer.layers
        if not part.built
    ]
    return model.built and not waiting


def _check_rate(optimizer: Any) -> None:
    """Raise an error if the learning rate of an optimizer cannot be set."""
    try:
        optimizer.learning_rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "The search sets the learning rate of the optimizer at each step, and this rate cannot "
            "be set: it is a schedule or a function. Compile the model with a number, such as "
            "`keras.optimizers.Adam(1e-3)`, and with the schedule afterwards. "
            f"Received: {optimizer!r}, which raised {str(error)!r}"
        ) from error
