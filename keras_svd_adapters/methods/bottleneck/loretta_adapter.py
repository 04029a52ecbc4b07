"""LoRETTA's adapter: a serial bottleneck whose matrices are tensor trains.

    y' = y + c (f(y W_down + b_down) W_up + b_up)        W_down, W_up trains of cores of rank t

Yang et al. 2024, arXiv:2402.11417, the variant LoRETTA_adp. The last core of `W_up` starts at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.bottleneck.serial_adapter import SerialAdapter
from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.tensor_train import (
    check_train,
    core_shapes,
    train_product,
    train_sizes,
)


@dataclass(frozen=True, repr=False)
class LoRETTAAdapter(SerialAdapter):
    """LoRETTA's serial adapter: both matrices are trains of small cores.

    Args:
        size: Integer, the number of hidden values s.
        activation: String, the function f: `"relu"`, `"gelu"`, `"silu"` or
            `"tanh"`.
        scale: Float, the factor c.
        train_scale: Boolean. Whether the factor trains, one for each kernel.
        dropout: Float, the rate of dropout on the hidden values.
        layer_norm: Boolean. Whether the network normalizes its inputs.
        tt_rank: Integer, the rank t of the trains.

    Raises:
        ValueError: If a hyperparameter is out of its range, or a size of a
            kernel has a prime factor above 16, so that a core would be as large
            as the matrix.

    Example:

    >>> keras_svd_adapters.methods.LoRETTAAdapter().trainable_count(768, 768)
    2712

    Reference:
        - [Yang et al., 2024](https://arxiv.org/abs/2402.11417)
    """

    size: int = 64
    tt_rank: int = 5

    name: ClassVar[str] = "loretta_adapter"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(tt_rank=self.tt_rank)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def check(self, m: int, n: int) -> None:
        check_train(n)

    def cores(self, side: str, n: int) -> dict[str, tuple[int, int, int]]:
        """Return the shapes of the cores of a matrix by their names."""
        shapes = core_shapes(train_sizes(n * self.size), self.tt_rank)
        return {f"tt_{side}_{i}": shape for i, shape in enumerate(shapes)}

    def matrices(self, m: int, n: int) -> dict[str, Array]:
        down, up = (self.cores(side, n) for side in ("down", "up"))
        last = list(up)[-1]
        return {
            name: Array(shape, trainable=True, start=0.0 if name == last else None)
            for name, shape in (down | up).items()
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        start = {}
        for side in ("down", "up"):
            shapes = self.cores(side, K.shape[1])
            spread = (1 / (K.shape[1] + self.size)) ** (0.5 / len(shapes))
            for name, shape in list(shapes.items())[: None if side == "down" else -1]:
                start[name] = rng.normal(scale=spread / shape[2] ** 0.5, size=shape)
        return start

    def network(self, v: SimpleNamespace) -> tuple[Any, Any]:
        n = v.up_bias.shape[0]
        down, up = (
            [each for name, each in vars(v).items() if name.startswith(f"tt_{side}_")]
            for side in ("down", "up")
        )
        return train_product(down, (n, self.size)), train_product(up, (self.size, n))
