"""SoRA: gates that an optimizer drives to 0.

    K' = K + c A diag(mask * e) B        A (m, r), B (r, n) starts at 0,  e (r,),  c = alpha / r

Ding et al. 2023, arXiv:2311.11696. A starts uniform in +-1/sqrt(m), and e normal. After each step
of the optimizer, the paper moves e towards 0 by a proximal step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.gated.gated import Gated
from keras_svd_adapters.methods.kaiming import kaiming


@dataclass(frozen=True, repr=False)
class SoRA(Gated):
    """Sparse low-rank adaptation: the gates of ranks that do not help become 0.

    The method trains `rank * (m + n) + rank` values per `(m, n)` kernel. It needs
    a rule of the optimizer that shrinks the gates: by itself, it is LoRA with a
    diagonal. No weight decay acts on the gates.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.SoRA(rank=4).trainable_count(384, 1536)
    7684

    Reference:
        - [Ding et al., 2023](https://arxiv.org/abs/2311.11696)
    """

    rank: int = 8
    alpha: float | None = 16

    name: ClassVar[str] = "sora"
    schedule: ClassVar[str] = "Proximal"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return self.gated_arrays(m, n, gate=None, b=0.0)

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {
            "lora_a": kaiming(rng, (len(K), self.rank)),
            "gate": rng.normal(size=self.rank),
        }
