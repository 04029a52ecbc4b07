"""Time that adapters add to a training step, measured on layers of the same shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.enable import enable
from keras_svd_adapters.reports.plan_report import PlannedSite
from keras_svd_adapters.runtime.machine import seconds_of

REPEATS = 7


def added_milliseconds(sites: Sequence[PlannedSite], tokens: int) -> float:
    """Measure how much longer a training step on this machine is with these adapters.

    One random layer stands for all kernels of one shape and method. Its step is timed with the
    adapter and without.

    Args:
        sites: The kernels of a plan.
        tokens: Number of tokens of a batch, that is, of rows that each kernel multiplies.

    Returns:
        Milliseconds, summed over the kernels.
    """
    counts: dict[tuple[Method, int, int, str], int] = {}
    for planned in sites:
        view = planned.site.view
        key = (planned.method, view.m, view.n, planned.site.layer.compute_dtype)
        counts[key] = counts.get(key, 0) + 1
    return sum(count * _added(*key, tokens) for key, count in counts.items())


def _added(method: Method, m: int, n: int, dtype: str, tokens: int) -> float:
    plain, adapted = (_layer(m, n, dtype) for _ in range(2))
    enable(adapted, method, targets="kernel", train="norm", cache=False, verbose=0)
    steps = [_step(model, m, n, tokens) for model in (plain, adapted)]
    times = np.array([[seconds_of(step) for step in steps] for _ in range(REPEATS)])
    without, with_adapter = np.min(times, axis=0)
    return max(0.0, 1000 * float(with_adapter - without))


def _layer(m: int, n: int, dtype: str) -> keras.Model:
    """Return a frozen kernel after a layer that trains, so that gradients pass the kernel."""
    kernel = keras.layers.Dense(n, use_bias=False, name="kernel", dtype=dtype)
    norm = keras.layers.LayerNormalization(name="norm", dtype=dtype)
    model = keras.Sequential([keras.Input((m,)), norm, kernel])
    kernel.trainable = False
    return model


def _step(model: keras.Model, m: int, n: int, tokens: int) -> Callable[[], Any]:
    """Return a training step that is compiled already."""
    model.compile(optimizer=keras.optimizers.SGD(1e-2), loss="mse")
    x: np.ndarray = np.ones((tokens, m), "float32")
    y: np.ndarray = np.ones((tokens, n), "float32")
    model.train_on_batch(x, y)
    return lambda: model.train_on_batch(x, y)
