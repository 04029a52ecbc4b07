"""OnlineLoRA: a LoRA that begins again where the loss of a stream of data is flat.

    K' = K + c (A B + P Q)        A (m, r), B (r, n) train,  P, Q from earlier parts of the stream
    loss + w / 2 sum (F_A A^2 + F_B B^2)        F: how important these values were before

Wei et al. 2024, arXiv:2411.05663. The paper adds the factors of a part to A and B, which changes
the model: (A1 + A2)(B1 + B2). Here they become past factors, and the model stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras.ops import square

from keras_svd_adapters.methods.algebra import total
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.hyperparameters import check_not_negative
from keras_svd_adapters.methods.low_rank.task_lora import TaskLoRA

LONGEST_WINDOW = 32  # last losses of a stream


@dataclass(frozen=True, repr=False)
class OnlineLoRA(TaskLoRA):
    """One low-rank adaptation per part of a stream, whose borders nobody knows (Online-LoRA).

    The method trains `rank * (m + n)` values per `(m, n)` kernel at a time, and
    computes as long as a LoRA of rank `tasks * rank`. The callback
    `OnlineLoRASchedule` finds the borders.

    Args:
        rank: Integer, the rank of a part.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        tasks: Integer, the largest number of parts; the last one goes on.
        orthogonality: Float, as in `TaskLoRA`; the paper has none.
        norm_weight: Float, as in `TaskLoRA`; the paper has none.
        importance_weight: Float, the weight w in the loss of the squares of
            values that were important before.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.OnlineLoRA(rank=4).trainable_count(384, 1536)
    7680

    Reference:
        - [Wei et al., 2024 (Online-LoRA)](https://arxiv.org/abs/2411.05663)
    """

    rank: int = 4
    tasks: int = 8
    orthogonality: float = 0.0
    importance_weight: float = 2000.0

    name: ClassVar[str] = "online_lora"
    schedule: ClassVar[str] = "OnlineLoRASchedule"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(importance_weight=self.importance_weight)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        arrays, importance = super().arrays(m, n, form), {}
        for side in "ab":
            own = arrays[f"lora_{side}"]
            frozen = own._replace(trainable=False, saved=True, start=0.0, penalty=None)
            importance[f"importance_{side}"] = frozen
        stream = Array((LONGEST_WINDOW + 5,), saved=True, start=0.0)
        return arrays | importance | {"stream": stream}

    def penalty_of_a(self, A: Any, v: SimpleNamespace) -> Any:
        return super().penalty_of_a(A, v) + self._of_important(A, v.importance_a)

    def penalty_of_b(self, B: Any, v: SimpleNamespace) -> Any:
        return super().penalty_of_b(B, v) + self._of_important(B, v.importance_b)

    def _of_important(self, array: Any, importance: Any) -> Any:
        return self.importance_weight / 2 * total(importance * square(array))
