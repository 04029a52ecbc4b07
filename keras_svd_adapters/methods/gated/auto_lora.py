"""AutoLoRA: gates that validation data train, and that choose the rank.

    K' = K + c A diag(mask * softmax(e)) B        B (r, n) starts at 0,  e (r,) at 0,  c = alpha / r

Zhang et al. 2024, arXiv:2403.09113. As in the authors' code, the gates are a softmax, equal at the
start, and the factors start as in LoRA, so that the start is the base.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import softmax
from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.gated.gated import Gated
from keras_svd_adapters.methods.kaiming import kaiming

ROUNDING = 1e-9  # equal gates are all left


@dataclass(frozen=True, repr=False)
class AutoLoRA(Gated):
    """Low-rank adaptation that finds the rank of each kernel.

    The method trains `rank * (m + n) + rank` values per `(m, n)` kernel, the
    gates on validation data. `prune(model)` then leaves the ranks of each kernel
    whose gate is at least `1 / rank`.

    Args:
        rank: Integer, the rank of the update at the most.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.AutoLoRA(rank=4).trainable_count(384, 1536)
    7684

    Reference:
        - [Zhang et al., 2024](https://arxiv.org/abs/2403.09113)
    """

    rank: int = 8
    alpha: float | None = None

    name: ClassVar[str] = "autolora"
    schedule: ClassVar[str] = "AutoLoRASchedule"

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return self.gated_arrays(m, n, gate=0.0, b=0.0)

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"lora_a": kaiming(rng, (len(K), self.rank))}

    def gate(self, v: SimpleNamespace) -> Any:
        return softmax(v.gate) * v.mask

    def pruned(self, v: SimpleNamespace, share: float | None) -> dict[str, np.ndarray]:
        if share is not None:
            return super().pruned(v, share)
        return {"mask": softmax(v.gate) > (1 - ROUNDING) / self.rank}
