"""Checks of the weights of adapters that a caller gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from sys import float_info
from typing import Any

import keras

from keras_svd_adapters.models.named_adapters import require_adapter


def check_weights(model: keras.layers.Layer, given: Mapping[Any, Any]) -> dict[str, float]:
    """Return the weight of each adapter as a number; raise an error if one is not."""
    check_names(model, given)
    for name, weight in given.items():
        if not is_weight(weight):
            raise ValueError(
                "The weight of an adapter is a finite number, such as 0.4. "
                f"Received: {name!r}: {weight!r}"
            )
    return {name: float(weight) for name, weight in given.items()}


def check_names(model: keras.layers.Layer, given: Mapping[Any, Any]) -> None:
    """Raise an error if weights are given for no adapter, or for one that the model lacks."""
    if not given:
        raise ValueError(
            "Name at least one adapter with its weight, such as `{'a': 0.4}`; `set_adapter(model, "
            "None)` deactivates all adapters. Received: {}"
        )
    for name in given:
        if not isinstance(name, str):
            raise ValueError(
                "Weights belong to names of adapters, as in `{'a': 0.4}`. "
                f"Received: name={name!r}"
            )
        require_adapter(model, name)


def check_trained(weights: Mapping[str, Any], train: Any) -> set[str]:
    """Return the names of the adapters that train; raise an error if one has no weight."""
    names = [] if train is None else [train] if isinstance(train, str) else train
    if isinstance(names, Sequence) and all(isinstance(n, str) and n in weights for n in names):
        return set(names)
    raise ValueError(
        "`train` names adapters that have a weight: one name or a list, of "
        f"{', '.join(map(repr, weights))}. Received: train={train!r}"
    )


def is_weight(value: Any) -> bool:
    """Whether a value is a finite number."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and bool(abs(value) <= float_info.max)
