"""LoRA-prune: LoRA on a kernel whose groups of inputs are pruned, those of the base as well.

    K' = diag(p) (K + c A B)        A (m, r), B (r, n) starts at 0,  p (m,) frozen,  c = alpha / r

Zhang et al. 2023, arXiv:2305.18403. A schedule sets groups of p, which starts at 1, to 0. A group
is `group` inputs in a row: with the size of a head, a head of the last projection of attention;
with 1, a channel of the last projection of a feed-forward block. Without its inputs there, a head
or a channel has no effect, whatever its other kernels hold. The paper masks these, too, and lets
them count in the importance of the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout
from keras_svd_adapters.methods.hyperparameters import (
    check_division,
    check_positive_integers,
    check_share,
)
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import lora_arrays
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class LoRAPrune(Ranked):
    """Low-rank adaptation that prunes heads and channels of the base while it trains.

    The method trains `rank * (m + n)` values per `(m, n)` kernel. A
    `LoRAPruneSchedule` keeps the part `share` of the groups of inputs. Use it
    on the last projection of attention and of the feed-forward block, and a
    LoRA on the other kernels.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        share: Float in (0, 1], the part of the groups that is kept at the end.
        group: Integer, the number of inputs that are pruned together, such as
            those of one head.

    Raises:
        ValueError: If a hyperparameter is out of its range, or `group` does not
            divide the number of inputs.

    Example:

    >>> keras_svd_adapters.methods.LoRAPrune(rank=4).trainable_count(384, 1536)
    7680

    Reference:
        - [Zhang et al., 2023](https://arxiv.org/abs/2305.18403)
    """

    rank: int = 8
    alpha: float | None = 16
    share: float = 0.5
    group: int = 1

    name: ClassVar[str] = "lora_prune"
    schedule: ClassVar[str] = "LoRAPruneSchedule"
    forms: ClassVar[tuple[str, ...]] = ("activations", "kernel")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(share=self.share)
        check_positive_integers(group=self.group)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3

    def check(self, m: int, n: int) -> None:
        super().check(m, n)
        check_division("group", self.group, m=m)

    def form(self, m: int, n: int, s: Any = None) -> str:
        return "activations"

    def patch_form(self, m: int, n: int, s: Any = None) -> str:
        return "kernel"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            **lora_arrays(m, n, self.rank),
            "mask": Array((m,), saved=True, start=1.0, axes="m"),
            "importance": Array((m // self.group,), saved=True, start=0.0),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"lora_a": kaiming(rng, (len(K), self.rank))}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        A, B = self.scale * c.lora_a, c.lora_b
        if form == "kernel":
            return base(x, self._change(base.matrix(), A, B, c.mask))
        x = x * c.mask
        return base.plus(x, base.times(x, A), B)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return self._change(K, self.scale * v.lora_a, v.lora_b, v.mask)

    def _change(self, K: Any, A: Any, B: Any, mask: Any) -> Any:
        return (mask[:, None] - 1) * K + mask[:, None] * matmul(A, B)
