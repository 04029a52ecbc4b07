"""Optimizer hooks for adapters: exclusion from weight decay, and a warning about unfit rates.

`keras.optimizers.Optimizer.build` receives the trained variables on every path: `fit`, a custom
loop, a task made before or after its backbone was adapted. This module wraps it once, at import.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.runtime.keras_private.variables import (
    exclude_from_weight_decay,
    rate_or_schedule,
)
from keras_svd_adapters.runtime.threads.context_values import with_value
from keras_svd_adapters.runtime.warnings import warn

SLOW, FAST = 50, 10  # one part of so many of the recommended rate, and times that rate
_ratio: ContextVar[Callable[[Any], float]] = ContextVar("_ratio", default=lambda variable: 1.0)
_searches: ContextVar[bool] = ContextVar("_searches", default=False)
OF_ONE_SCALE = (keras.optimizers.Adam, keras.optimizers.Nadam, keras.optimizers.Lion)


def install_optimizer_hooks() -> None:
    """Wrap `keras.optimizers.Optimizer.build` once."""
    original = keras.optimizers.Optimizer.build
    if getattr(original, "cares_for_adapters", False):
        return

    @wraps(original)
    def build(self: Any, variables: Any) -> Any:
        exclude_nonzero_starts(self, variables)
        warn_if_far(self, variables)
        return original(self, variables)

    build.cares_for_adapters = True  # type: ignore[attr-defined]
    keras.optimizers.Optimizer.build = build


def exclude_nonzero_starts(optimizer: Any, variables: list[keras.Variable]) -> None:
    """Exclude arrays that do not start at 0 from weight decay, which would undo the base model."""
    if kept := [v for v in variables if not getattr(v, "decays", True)]:
        exclude_from_weight_decay(optimizer, kept)


def warn_if_far(optimizer: Any, variables: list[keras.Variable]) -> None:
    """Warn if the learning rate is far below or above the one that a method recommends.

    Long runs of large models take much lower rates than the short runs that rates are measured on.

    Only optimizers whose steps are about as long as the rate can have a rate that is too high.
    If a rule gives the arrays of a method several rates, all must be too low or too high.
    """
    if _searches.get():
        return
    if hasattr(optimizer, "inner_optimizer"):
        return  # loss scaling builds the inner optimizer too, and only that one has a rate
    methods: dict[Method, list[float]] = {}
    for variable in variables:
        if hasattr(variable, "adapted_by"):
            methods.setdefault(variable.adapted_by, []).append(_ratio.get()(variable))
    rate = peak_learning_rate(optimizer) if methods else 0.0
    for method, ratios in methods.items():
        best = method.recommended_learning_rate
        if rate * max(ratios) < best / SLOW:
            warn(_advice(method, rate * max(ratios), "barely changes"))
        elif rate * min(ratios) > best * FAST and isinstance(optimizer, OF_ONE_SCALE):
            warn(_advice(method, rate * min(ratios), "will probably diverge"))


def rates_multiplied_by(ratio: Callable[[Any], float]) -> AbstractContextManager[None]:
    """Context manager: an optimizer is built for arrays whose rates a rule multiplies."""
    return with_value(_ratio, ratio)


def search_for_a_rate() -> AbstractContextManager[None]:
    """Context manager: an optimizer is built for a search, which sets its rates itself."""
    return with_value(_searches, True)


def peak_learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Return the learning rate, or the highest rate that a schedule reaches early."""
    rate = rate_or_schedule(optimizer)
    with _outside_any_graph():
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return max(float(rate(step)) for step in (0, 10, 100, 1000, 10000))
        return float(ops.convert_to_numpy(rate() if callable(rate) else rate))


def _outside_any_graph() -> AbstractContextManager[Any]:
    """Context manager outside the trace in which TensorFlow builds an optimizer.

    Variables have no values inside a trace.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return nullcontext()


def _advice(method: Method, rate: float, result: str) -> str:
    best = method.recommended_learning_rate
    return (
        f"At a learning rate of {rate:.1e}, {method} {result}; use a learning rate of about "
        f"{best:.1e}. Type `model.compile(optimizer=keras.optimizers.Adam({best:.0e}), ...)`. "
        f"Received: learning_rate={rate:.1e}"
    )
