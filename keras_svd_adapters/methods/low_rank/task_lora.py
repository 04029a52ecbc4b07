"""TaskLoRA: one LoRA per task, in directions that earlier tasks left free (O-LoRA).

    K' = K + c (A B + P Q)        A (m, r), B (r, n) of this task,  P, Q of the tasks before
    loss + l1 sum |P^T A| + l2 (|A| + |B|)        summed over all kernels

Wang et al. 2023, arXiv:2310.14152. The inputs that a task reads, the columns of A, stay orthogonal
to those that earlier tasks read.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras.ops import absolute

from keras_svd_adapters.methods.algebra import (
    is_float32,
    matmul,
    norm,
    plus_product,
    total,
    transpose,
)
from keras_svd_adapters.methods.contract import Array, Base, Dropout
from keras_svd_adapters.methods.hyperparameters import check_not_negative
from keras_svd_adapters.methods.low_rank.past_factors import PastFactors


@dataclass(frozen=True, repr=False)
class TaskLoRA(PastFactors):
    """One low-rank adaptation per task, orthogonal to those of earlier tasks (O-LoRA).

    The method trains `rank * (m + n)` values per `(m, n)` kernel at a time, and
    computes as long as a LoRA of rank `tasks * rank`. `begin_task` freezes what
    a task learned and begins the next one. In the first task, the method trains
    as `LoRA` does.

    Args:
        rank: Integer, the rank of a task.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        tasks: Integer, the largest number of tasks.
        orthogonality: Float, the weight l1 in the loss of the products of
            earlier A with the present one. It is a sum over all kernels, so it
            grows with their number and with the rank. `0.0` is a sum of LoRAs.
        norm_weight: Float, the weight l2 in the loss of the norms of A and B.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.TaskLoRA(rank=4).trainable_count(384, 1536)
    7680

    Reference:
        - [Wang et al., 2023 (O-LoRA)](https://arxiv.org/abs/2310.14152)
    """

    tasks: int = 4
    orthogonality: float = 0.5
    norm_weight: float = 0.0

    name: ClassVar[str] = "task_lora"

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.tasks) is not int or self.tasks < 2:
            raise ValueError(f"`tasks` must be an integer from 2. Received: tasks={self.tasks!r}")
        check_not_negative(orthogonality=self.orthogonality, norm_weight=self.norm_weight)

    @property
    def restarts(self) -> int:
        return self.tasks - 1

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        arrays = super().arrays(m, n, form)
        return arrays | {
            "lora_a": arrays["lora_a"]._replace(penalty=self.penalty_of_a),
            "lora_b": arrays["lora_b"]._replace(penalty=self.penalty_of_b),
        }

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if not is_float32(x):  # one sum, so that it is rounded once
            return super().apply(x, base, c, form, dropout)
        r = self.rank  # of the present task, which is exactly a LoRA while there is no past
        y = base.plus(x, base.times(x, c.left[:, :r]), c.right[:r])
        return plus_product(y, base.times(x, c.left[:, r:]), c.right[r:])

    def penalty_of_a(self, A: Any, v: SimpleNamespace) -> Any:
        """Return what A adds to the loss."""
        overlap = total(absolute(matmul(transpose(v.past_a), A)))
        return self.orthogonality * overlap + self.norm_weight * norm(A)

    def penalty_of_b(self, B: Any, v: SimpleNamespace) -> Any:
        """Return what B adds to the loss."""
        return self.norm_weight * norm(B)
