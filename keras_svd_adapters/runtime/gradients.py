"""Losses, and their gradients by some variables, without a step of training, on each backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import backend, ops

from keras_svd_adapters.runtime.host_values import to_float64
from keras_svd_adapters.runtime.keras_private.layers import all_layers

LARGEST_FACTOR = 2.0**15  # as Keras scales losses in float16 at first


def gradients(loss: Callable[[], Any], variables: Sequence[keras.Variable]) -> list[Any]:
    """Return the gradient of a loss by each variable; no variable changes.

    Args:
        loss: Function that reads the variables and returns a scalar. What it assigns to variables,
            such as the statistics of batch normalization, is dropped.
        variables: The variables, in float32; the loss must depend on one of them at least.
    """
    loss_at = _stateless(loss, variables)
    values = [ops.copy(variable) for variable in variables]
    if backend.backend() == "jax":
        import jax

        return jax.grad(loss_at)(values)
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(values)
            found = loss_at(values)
        return tape.gradient(found, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    import torch

    values = [value.detach().requires_grad_(True) for value in values]
    with torch.enable_grad():
        found = torch.autograd.grad(loss_at(values), values, allow_unused=True)
    return [
        ops.zeros_like(v) if gradient is None else gradient
        for v, gradient in zip(values, found, strict=True)
    ]


def loss_factor(model: keras.layers.Layer) -> float:
    """Return the factor of a loss with which its gradients are first tried in float16."""
    in_half = any(layer.compute_dtype == "float16" for layer in all_layers(model))
    return LARGEST_FACTOR if in_half else 1.0


def gradients_on_host(
    loss: Callable[[], Any], variables: Sequence[keras.Variable], factor: float
) -> list[np.ndarray]:
    """Return the gradient of a loss by each variable, in float64 on the host.

    Args:
        loss: As in `gradients`.
        variables: As in `gradients`.
        factor: `loss_factor` of the model. The gradients are those of the loss times a factor, and
            then divided by it; a smaller one is tried if they are not finite.
    """
    while True:
        found = gradients(lambda: factor * loss(), variables)  # noqa: B023
        values = [to_float64(gradient) / factor for gradient in found]
        if factor <= 1 or all(np.isfinite(value).all() for value in values):
            return values
        factor /= 8


def compiled_loss(
    loss: Callable[[], Any], variables: Sequence[keras.Variable]
) -> Callable[[], float]:
    """Return a function that computes a loss at the present values of the variables.

    It is compiled at its first call, except on PyTorch. No variable changes.

    Args:
        loss: As in `gradients`.
        variables: All variables that the loss reads and that may change between two calls.
    """
    loss_at = _stateless(loss, variables)
    if backend.backend() == "jax":
        import jax

        loss_at = jax.jit(loss_at)
    elif backend.backend() == "tensorflow":
        import tensorflow as tf

        loss_at = tf.function(loss_at)
    return lambda: float(
        without_gradients(lambda: loss_at([ops.convert_to_tensor(v) for v in variables]))
    )


def _stateless(
    loss: Callable[[], Any], variables: Sequence[keras.Variable]
) -> Callable[[Sequence[Any]], Any]:
    """Return a function from values of the variables to a loss."""

    def loss_at(values: Sequence[Any]) -> Any:
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
            return loss()

    return loss_at


def without_gradients(compute: Callable[[], Any]) -> Any:
    """Return the result of a function that is called for its outputs alone."""
    if backend.backend() != "torch":
        return compute()
    import torch

    with torch.no_grad():
        return compute()
