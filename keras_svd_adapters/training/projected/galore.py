"""GaLore: Adam on gradients that are projected on their own singular vectors.

    R = Pt g        P (m, r): the largest singular vectors of a past gradient, g (m, n) with m <= n
    W -= rate c P adam(R)

Zhao et al. 2024, arXiv:2403.03507. The vectors are those of `g gt`, an (m, m) matrix.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_svd_adapters.training.projected.optimizer import ProjectedOptimizer, wide


@keras.saving.register_keras_serializable("keras_svd_adapters")
class GaLore(ProjectedOptimizer):
    """Adam on gradients that are projected on their own largest singular vectors.

    A kernel of `m` by `n` values, `m <= n`, has `rank (m + 2 n)` values of state
    instead of `2 m n`. The projection is part of the state, because only a past
    gradient gives it. For weights in bfloat16, the state is in float32. Vectors,
    and kernels with a side of at most `rank`, train with plain Adam.

    Args:
        learning_rate: Float, or a schedule.
        rank: Integer, the number of singular vectors.
        every: Integer, the number of steps between two projections.
        scale: Float, the factor of the update of a projected kernel.
        beta_1: Float, the decay of the first moment.
        beta_2: Float, the decay of the second moment.
        epsilon: Float, added to the root of the second moment.
        **kwargs: Further arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If `rank` or `every` is not positive.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)])
    >>> model.compile(optimizer=ksa.GaLore(1e-3, rank=2, every=50), loss="mse")
    >>> _ = model.fit(keras.ops.ones((4, 8)), keras.ops.ones((4, 6)), verbose=0)

    Reference:
        - [Zhao et al., 2024](https://arxiv.org/abs/2403.03507)
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        rank: int = 128,
        every: int = 200,
        scale: float = 0.25,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "galore",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, rank, every, name=name, **kwargs)
        self.scale, self.beta_1, self.beta_2, self.epsilon = scale, beta_1, beta_2, epsilon

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.projections, self.moments = [], []
        for variable in variables:
            sides = self.sides(variable)
            shape = variable.shape if sides is None else (self.rank, sides[1])
            slots = [self.add_slot(variable, shape, name) for name in ("momentum", "velocity")]
            self.moments.append(slots)
            self.projections.append(
                sides and self.add_slot(variable, (sides[0], self.rank), "projection")
            )

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        projection = self.projections[index]
        gradient = ops.cast(gradient, wide(variable))
        if projection is None:
            update = self._adam(gradient, *self.moments[index])
            self.subtract(variable, update, learning_rate)
            return
        matrix = self.matrix(gradient)
        P = ops.cond(
            self.is_due(),
            lambda: largest_vectors(matrix, self.rank),
            lambda: ops.convert_to_tensor(projection),
        )
        self.assign(projection, P)
        update = self._adam(ops.matmul(ops.transpose(P), matrix), *self.moments[index])
        self.move(variable, self.scale * ops.matmul(P, update), learning_rate)

    def _adam(self, gradient: Any, momentum: Any, velocity: Any) -> Any:
        step = ops.cast(self.iterations + 1, gradient.dtype)
        self.assign(momentum, momentum + (1 - self.beta_1) * (gradient - momentum))
        self.assign(velocity, velocity + (1 - self.beta_2) * (ops.square(gradient) - velocity))
        mean = ops.convert_to_tensor(momentum) / (1 - ops.power(self.beta_1, step))
        square = ops.convert_to_tensor(velocity) / (1 - ops.power(self.beta_2, step))
        return mean / (ops.sqrt(square) + self.epsilon)

    def get_config(self) -> dict[str, Any]:
        own = ("scale", "beta_1", "beta_2", "epsilon")
        return super().get_config() | {name: getattr(self, name) for name in own}


def largest_vectors(matrix: Any, rank: int) -> Any:
    """Return the singular vectors of the rows' side with the largest values, `(m, rank)`."""
    _, vectors = ops.eigh(ops.matmul(matrix, ops.transpose(matrix)))  # from small to large
    return ops.flip(vectors[:, vectors.shape[1] - rank :], axis=1)
