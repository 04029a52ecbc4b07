"""Flora: momentum that is stored as a random projection, drawn again from time to time.

    u = g / rms        with factored second moments, g (m, n) with m <= n
    W -= rate (b Pt M + (1 - b) u)
    M <- b M + (1 - b) P u        P (t, m) random, N(0, 1 / t)

Hao et al. 2024, arXiv:2402.03293. With a new P, M becomes P_new Pt_old M. The second moments follow
Adafactor: the means over rows and over columns of their moving average. This optimizer is not the
adapter FLoRA with a core, nor the batched LoRA of a similar name.
"""

from __future__ import annotations

from math import log
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.methods.hyperparameters import check_below_one
from keras_svd_adapters.training.projected.optimizer import ProjectedOptimizer, wide

SPACING = 65_537  # between the seeds of two kernels


class DrawnSeed(keras.random.SeedGenerator):
    """A seed that a step computes; no state.

    Args:
        first: Integer.
        second: Integer tensor.
        dtype: Dtype of seeds.
    """

    def __init__(self, first: int, second: Any, dtype: str):
        self.pair = ops.stack([ops.cast(first, dtype), ops.cast(second, dtype)])

    def next(self, ordered: bool = True) -> Any:
        return self.pair


@keras.saving.register_keras_serializable("keras_svd_adapters")
class Flora(ProjectedOptimizer):
    """Adafactor with momentum of `rank` rows per kernel, whatever its smaller side.

    A kernel of `m` by `n` values, `m <= n`, has `rank n + m + n` values of state.
    Seeds give the random projections, so no state holds them. For weights in
    bfloat16, the state is in float32. Vectors, and
    kernels with a side of at most `rank`, have whole momentum and whole second
    moments.

    Args:
        learning_rate: Float, or a schedule.
        rank: Integer, the number of rows of a projected gradient.
        every: Integer, the number of steps between two projections.
        beta_1: Float, the decay of the momentum.
        beta_2: Float, the decay of the second moments.
        epsilon: Float, added to the squares of gradients.
        clip_threshold: Float, the largest root mean square of `u` of a kernel.
        seed: Integer, the seed of the projections. Each backend draws others.
        **kwargs: Further arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If `rank` or `every` is not positive, if a decay is not in
            [0, 1), or if momentum would grow from one projection to the next.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)])
    >>> model.compile(optimizer=ksa.Flora(1e-3, rank=2), loss="mse")
    >>> _ = model.fit(keras.ops.ones((4, 8)), keras.ops.ones((4, 6)), verbose=0)

    Reference:
        - [Hao et al., 2024](https://arxiv.org/abs/2402.03293)
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        rank: int = 16,
        every: int = 1000,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        epsilon: float = 1e-30,
        clip_threshold: float = 1.0,
        seed: int = 0,
        name: str = "flora",
        **kwargs: Any,
    ):
        check_below_one(beta_1=beta_1, beta_2=beta_2)
        super().__init__(learning_rate, rank, every, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.clip_threshold, self.seed = clip_threshold, seed
        self.seed_dtype = keras.random.SeedGenerator(0).state.dtype

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.moments, self.squares = [], []
        for variable in variables:
            sides = self.sides(variable)
            shape = variable.shape if sides is None else (self.rank, sides[1])
            self._check_growth(variable, sides)
            squares = [variable.shape] if sides is None else [(side,) for side in sides]
            self.moments.append(self.add_slot(variable, shape, "momentum"))
            self.squares.append([self.add_slot(variable, each, "squares") for each in squares])

    def _check_growth(self, variable: keras.Variable, sides: tuple[int, int] | None) -> None:
        """Raise an error if momentum grows from one projection to the next."""
        growth = 1.0 if sides is None else (sides[0] / self.rank) ** 0.5
        if self.beta_1**self.every * growth >= 1:
            least = int(log(growth) / -log(self.beta_1)) + 1
            raise ValueError(
                f"A new projection makes the momentum of `{variable.path}` {growth:.1f} times as "
                f"large, and it would not fade before the next one: use `every={least}` or more. "
                f"Received: every={self.every}, beta_1={self.beta_1}"
            )

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        momentum, sides = self.moments[index], self.sides(variable)
        gradient = ops.cast(gradient, wide(variable))
        if sides is None:
            u = self._scaled(gradient, self.squares[index])
            self.assign(momentum, momentum + (1 - self.beta_1) * (u - momentum))
            update = ops.convert_to_tensor(momentum)
            self.subtract(variable, update, learning_rate)
            return
        u = self._scaled(self.matrix(gradient), self.squares[index])
        time = self.iterations // self.every
        P = self.projection(index, time, sides[0])
        M = ops.cond(
            self.is_due(),
            lambda: P @ (ops.transpose(self.projection(index, time - 1, sides[0])) @ momentum),
            lambda: ops.convert_to_tensor(momentum),
        )
        update = self.beta_1 * (ops.transpose(P) @ M) + (1 - self.beta_1) * u
        self.assign(momentum, self.beta_1 * M + (1 - self.beta_1) * (P @ u))
        self.move(variable, update, learning_rate)

    def projection(self, index: int, time: Any, side: int) -> Any:
        """Return P (rank, side) of a kernel, after `time` times `every` steps."""
        seed = DrawnSeed(self.seed + SPACING * index, time, self.seed_dtype)
        return keras.random.normal((self.rank, side), stddev=self.rank**-0.5, seed=seed)

    def _scaled(self, gradient: Any, squares: list[keras.Variable]) -> Any:
        """Return a gradient divided by the root of its second moments, and clipped."""
        square = ops.square(gradient) + self.epsilon
        now = [square] if len(squares) == 1 else [ops.mean(square, 1), ops.mean(square, 0)]
        for slot, value in zip(squares, now):
            self.assign(slot, slot + (1 - self.beta_2) * (value - slot))
        step = ops.cast(self.iterations + 1, gradient.dtype)
        means = [ops.convert_to_tensor(s) / (1 - ops.power(self.beta_2, step)) for s in squares]
        if len(means) == 1:
            u = gradient / ops.sqrt(means[0])
        else:
            rows, columns = means
            u = gradient / ops.sqrt(rows / ops.mean(rows))[:, None] / ops.sqrt(columns)
        return u / ops.maximum(1.0, ops.sqrt(ops.mean(ops.square(u))) / self.clip_threshold)

    def get_config(self) -> dict[str, Any]:
        own = ("beta_1", "beta_2", "epsilon", "clip_threshold", "seed")
        return super().get_config() | {name: getattr(self, name) for name in own}
