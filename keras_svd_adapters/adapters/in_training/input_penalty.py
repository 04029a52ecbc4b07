"""A term of the loss that a method computes from the inputs of its kernel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from keras_svd_adapters.methods.method import Method


def add_input_penalty(
    adapter: Any, x: Any, base: Any, coefficients: dict[str, Any], training: bool | None
) -> None:
    """Add the penalty of a method to the losses of the model in training, if it has one.

    Args:
        adapter: The `Adapter`. One with nothing to train adds nothing.
        x: The inputs of its kernel.
        base: The frozen operation of the layer.
        coefficients: The arrays, as `Method.apply` reads them.
        training: Whether the model trains.
    """
    method = adapter.method
    if type(method).input_penalty is Method.input_penalty:
        return
    is_known = training is None or isinstance(training, bool)  # else a tensor, in a `RematScope`
    if is_known and not training:
        return
    if not any(variable.trainable for variable in adapter.trained.values()):
        return
    c = SimpleNamespace(**coefficients)
    penalty = method.input_penalty(x, base, c, adapter.form)
    if penalty is None:
        return
    if not is_known:
        raise ValueError(
            "With JAX, no term of the loss leaves a `RematScope`: use a method without one, such "
            f"as `MoLA(balance=0)`, or train without the scope. Received: {method}"
        )
    adapter.add_loss(penalty)
