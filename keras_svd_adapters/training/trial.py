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
from keras_svd_adapters.runtime.keras_private.layers import all_layers
from keras_svd_adapters.runtime.keras_private.tracing import end_loop_state
from keras_svd_adapters.runtime.random_state import RandomState
from keras_svd_adapters.training.optimizers import search_for_a_rate


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
        layers = all_layers(model) if is_module else []
        buffers = {id(x): x for layer in layers for x in layer.buffers()}.values()
        self._buffers = [(x, x.clone()) for x in buffers]
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

    An optimizer, metrics and losses that are not built stay so: copies of them train instead.

    Yields:
        A `Trial`, which restores the start as often as needed.
    """
    with _built_parts(model):
        start = Trial(model)
        try:
            yield start
        finally:
            start.rewind()


@contextmanager
def _built_parts(model: Any) -> Iterator[None]:
    """Context manager: the optimizer of a model is built, and no unbuilt part of it will be."""
    optimizer = model.optimizer
    unbuilt = {name: part for name, part in vars(model).items() if _is_unbuilt(part)}
    copies = {name: _shallow_copy(part) for name, part in unbuilt.items()}
    copy = optimizer if optimizer.built else _built_copy(optimizer, model.trainable_variables)
    if copy is optimizer and not copies:
        yield
        return
    vars(model).update(copies)
    model.optimizer, model.train_function = copy, None
    try:
        yield
    finally:
        vars(model).update(unbuilt)
        model.optimizer, model.train_function = optimizer, None
        if not isinstance(model, AdaptedModel):  # an adapted model forgets by itself
            forget_traces(model)


def _is_unbuilt(part: Any) -> bool:
    """Return whether Keras will build a part with the first batch.

    On PyTorch, Keras draws random numbers for this. `fit` must still draw them after the trial.
    """
    is_part = isinstance(part, keras.metrics.Metric | keras.losses.Loss)
    return is_part and not getattr(part, "built", True)


def _shallow_copy(part: Any) -> Any:
    copy = object.__new__(type(part))  # `copy.copy` would save and load it
    vars(copy).update(vars(part))
    return copy


def unbuilt_copy(optimizer: Any) -> Any:
    """Return a copy of an optimizer with the same settings; raise an error if it has none."""
    try:
        return fresh_optimizer(optimizer)
    except Exception as error:
        raise ValueError(
            "A copy of the optimizer must train, and its `get_config` or `from_config` fails. "
            "Without `methods`, the optimizer itself trains if you build it before: "
            "`model.optimizer.build(model.trainable_variables)`. "
            f"Received: {optimizer!r}, which raised {error!r}"
        ) from error


def _built_copy(optimizer: Any, variables: list[keras.Variable]) -> Any:
    """Return a copy of an optimizer, built for these variables."""
    copy = unbuilt_copy(optimizer)
    with search_for_a_rate(), mirrored_scope(variables[0]):
        copy.build(variables)
    return copy
