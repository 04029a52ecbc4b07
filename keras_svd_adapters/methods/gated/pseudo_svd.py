"""The common form of AdaLoRA and BiLoRA: factors that a penalty keeps orthogonal.

    K' = K + c A diag(mask * e) B        e starts at 0,  A and B normal with deviation 0.02
    loss + weight * mean over all A and B of the adapter of |A^T A - I|_F and |B B^T - I|_F

As in a decomposition, the gates then are the sizes of the ranks. As in HF PEFT, the penalty is not
squared, and a mean over all kernels.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import constant, matmul, norm, transpose
from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.gated.gated import Gated

DEVIATION = 0.02


class PseudoSVD(Gated):
    """Base class of the methods with a penalty of factors that are not orthogonal."""

    orthogonality: float
    mean_penalty: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.orthogonality >= 0:
            raise ValueError(
                "`orthogonality` must not be negative; 0 leaves the factors free. "
                f"Received: orthogonality={self.orthogonality!r}"
            )

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        penalty = self.distance_from_orthogonal if self.orthogonality else None
        return self.gated_arrays(m, n, gate=0.0, penalty=penalty)

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        m, n = K.shape
        return {
            "lora_a": rng.normal(0, DEVIATION, (m, self.rank)),
            "lora_b": rng.normal(0, DEVIATION, (self.rank, n)),
        }

    def distance_from_orthogonal(self, array: Any, v: SimpleNamespace) -> Any:
        """Return `weight |A^T A - I|_F` of an `(m, r)` array."""
        difference = matmul(transpose(array), array) - constant(np.eye(self.rank), array)
        return self.orthogonality * norm(difference)
