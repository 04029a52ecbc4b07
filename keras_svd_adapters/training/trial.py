"""A trial: training that leaves no trace in a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_svd_adapters.kernels.placement import mirrored_scope
from keras_svd_adapters.models.state.adapted_model import AdaptedModel
from keras_svd_adapters.models.state.changes import forget_traces
from keras_svd_adapters.models.state.optimizer_state import fresh_optimizer
from keras_svd_adapters.runtime.host_values import to_host_exact
from keras_svd_adapters.runtime.keras_private.tracing import end_loop_state
from keras_svd_adapters.runtime.random_state import RandomState


class Trial:
    """Everything that training changes in a compiled model, at one moment.

    This is every variable of the model, its metrics and its optimizer, the random state of this
    process and, on PyTorch, gradients and the buffers of wrapped modules.

    Args:
        model: A compiled model with a built optimizer.
    """

    def __init__(self, model: Any):
        self.model, self._random = model, RandomState()
        listed = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        variables = {id(variable): variable for variable in listed}.values()
        self._values = [(variable, to_host_exact(variable)) for variable in variables]
        is_module = keras.backend.backend() == "torch"
        self._buffers = [(x, x.clone()) for x in model.buffers()] if is_module else []
        self._gradients = [(x, x.grad) for x in model.parameters()] if is_module else []

    def rewind(self) -> None:
        """Restore that moment bit for bit."""
        end_loop_state(self.model)
        for metric in self.model.metrics:
            metric.reset_state()  # those that training has built
        for variable, value in self._values:
            variable.assign(value)
        for buffer, before in self._buffers:
            buffer.data.copy_(before)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        self._random.restore()


@contextmanager
def trial(model: Any) -> Iterator[Trial]:
    """Context manager: train a compiled model, and restore it in the end, also after an error.

    An optimizer that is not built stays so: a copy of it trains instead.

    Yields:
        A `Trial`, which restores the start as often as needed.
    """
    with _built_optimizer(model):
        start = Trial(model)
        try:
            yield start
        finally:
            start.rewind()


@contextmanager
def _built_optimizer(model: Any) -> Iterator[None]:
    """Context manager: the optimizer of a model is built, if need be a copy of its own."""
    optimizer = model.optimizer
    if optimizer.built:
        yield
        return
    try:
        copy = fresh_optimizer(optimizer)
    except Exception as error:
        raise ValueError(
            "The optimizer cannot be copied from its configuration. Build it first: "
            "`model.optimizer.build(model.trainable_variables)`. "
            f"Received: {optimizer!r}, which raised {error!r}"
        ) from error
    copy.learning_rate = 1.0  # a slow rate would raise a warning; the trial sets its own rates
    trained = model.trainable_variables
    with mirrored_scope(trained[0]):
        copy.build(trained)
    model.optimizer, model.train_function = copy, None
    try:
        yield
    finally:
        model.optimizer, model.train_function = optimizer, None
        if not isinstance(model, AdaptedModel):  # an adapted model forgets by itself
            forget_traces(model)
