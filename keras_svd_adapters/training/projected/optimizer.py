"""Base class of optimizers whose state is small, since it holds projected gradients."""

from __future__ import annotations

from math import prod
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.methods.hyperparameters import check_positive_integers


class ProjectedOptimizer(keras.optimizers.Optimizer):
    """Base class: a gradient is a matrix of at least as many columns as rows.

    Args:
        learning_rate: Float, or a schedule.
        rank: Integer, the number of rows of a projected gradient.
        every: Integer, the number of steps between two projections.
        **kwargs: Further arguments of `keras.optimizers.Optimizer`.
    """

    def __init__(self, learning_rate: Any, rank: int, every: int, **kwargs: Any):
        check_positive_integers(rank=rank, every=every)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.rank, self.every = rank, every

    def sides(self, variable: keras.Variable) -> tuple[int, int] | None:
        """Return the smaller and the larger side; `None` if there is nothing to project."""
        if len(variable.shape) < 2:
            return None
        inputs, outputs = prod(variable.shape[:-1]), variable.shape[-1]
        small, large = min(inputs, outputs), max(inputs, outputs)
        return (small, large) if self.rank < small else None

    def matrix(self, gradient: Any) -> Any:
        """Return a gradient as a matrix whose rows are its smaller side."""
        matrix = ops.reshape(gradient, (-1, gradient.shape[-1]))
        return ops.transpose(matrix) if matrix.shape[0] > matrix.shape[1] else matrix

    def move(self, variable: keras.Variable, update: Any, learning_rate: Any) -> None:
        """Subtract an update, in the form of `matrix`, from a variable."""
        if prod(variable.shape[:-1]) > variable.shape[-1]:
            update = ops.transpose(update)
        self.subtract(variable, ops.reshape(update, variable.shape), learning_rate)

    def subtract(self, variable: keras.Variable, update: Any, learning_rate: Any) -> None:
        """Subtract an update from a variable of its shape."""
        step = ops.cast(learning_rate, update.dtype) * update
        self.assign_sub(variable, ops.cast(step, variable.dtype))

    def add_slot(self, variable: keras.Variable, shape: tuple[int, ...], name: str) -> Any:
        """Return a new variable of the state."""
        return self.add_variable(shape, dtype=wide(variable), name=f"{variable.name}_{name}")

    def is_due(self) -> Any:
        """Return whether this step projects in a new way."""
        return ops.equal(self.iterations % self.every, 0)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"rank": self.rank, "every": self.every}


def wide(variable: keras.Variable) -> str:
    """Return the dtype of the state of a variable: float32, or wider if the variable is.

    A running mean in bfloat16 stands still, and no backend decomposes a matrix in it.
    """
    return "float64" if variable.dtype == "float64" else "float32"
