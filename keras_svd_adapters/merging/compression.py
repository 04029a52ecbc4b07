"""Compression of an adapter to signs and one size per array (ComPEFT)."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.refusals import refuse_without_delta
from keras_svd_adapters.kernels.low_rank_factors import is_share
from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.combining.blending import largest
from keras_svd_adapters.merging.kernel_updates import kernel_updates
from keras_svd_adapters.merging.new_adapters import (
    NewAdapter,
    attach_and_report,
    check_name_is_free,
)
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.models.weights_request import is_weight
from keras_svd_adapters.runtime.host_values import to_float_array


@changes_model
def compress(
    model: keras.layers.Layer, name: str, into: str, density: float = 0.1, alpha: float = 1.0
) -> Approximation:
    """Add a copy of an adapter whose changes are signs of one size in each array (ComPEFT).

    Of each trained array, the changes of the largest magnitude keep their sign, and all get the
    size `alpha * std`, the standard deviation of the changes of the array; the others
    become 0. The file of such an adapter is many times smaller, because it is
    stored compressed. Arrays that do not start at one number, such as LoRA's A, stay as they are.

    Args:
        model: An adapted model.
        name: Name of the adapter.
        into: Name of the new adapter, which becomes the active one.
        density: Float in (0, 1], the share of the changes that keep their sign.
        alpha: Float, the factor of their size. Choose it on validation data; 1
            suits large models.

    Returns:
        An `Approximation` with the error of each kernel's update, relative to
        that of the adapter; print it.

    Raises:
        ValueError: If there is no such adapter, the name is taken, no array
            starts at one number, or an argument is wrong. The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.SVF(), name="whole")
    >>> ksa.compress(model, "whole", into="small", density=0.5).error
    0.0

    Reference:
        - [Yadav et al., 2023](https://arxiv.org/abs/2311.13171)
    """
    if not is_share(density):
        raise ValueError(
            "`density` is the share of changes to keep, above 0 and at most 1. "
            f"Received: density={density!r}"
        )
    if not is_weight(alpha) or alpha <= 0:
        raise ValueError(f"`alpha` must be a positive number. Received: alpha={alpha!r}")
    sites = require_adapter(model, name)
    check_name_is_free(model, into)
    require_values(model, f"compress of {name!r}")
    new = []
    for site in sites:
        adapter = adapters_of(site.layer)[name]
        if adapter.method.depends_on_input:
            refuse_without_delta(adapter.method)
        starts = _starts(adapter)
        if not starts:
            raise ValueError(
                "No trained array of this method starts at one number, so its changes are not "
                f"known: `to_lora(model, rank=...)` makes it smaller. Received: {adapter.method} "
                f"on `{site.path}`"
            )
        values = partial(_compressed, adapter, starts, density, alpha)
        wanted = partial(kernel_updates, site, name)
        new.append(NewAdapter(site, adapter.method, adapter.form, values, wanted))
    return attach_and_report(model, new, into, f"the update of {name!r}")


def _starts(adapter: Adapter) -> dict[str, float]:
    """Return the first value of each trained array that starts at one number."""
    return {
        array: declared.start
        for array, declared in adapter.declared.items()
        if declared.trainable and declared.start is not None
    }


def _compressed(
    adapter: Adapter, starts: dict[str, float], density: float, alpha: float
) -> dict[str, np.ndarray]:
    values = {array: to_float_array(variable) for array, variable in adapter.arrays.items()}
    for array, start in starts.items():
        change = signs(values[array].astype("float64") - start, density, alpha)
        values[array] = (start + change).astype("float32")
    return values


def signs(change: np.ndarray, density: float, alpha: float) -> np.ndarray:
    """Return the signs of the largest entries times `alpha * std`, and 0 elsewhere."""
    return alpha * change.std() * np.sign(largest(change, density))
