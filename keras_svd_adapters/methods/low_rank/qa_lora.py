"""QA-LoRA: low-rank adaptation that reads the means of groups of inputs.

    K' = K + c P A B        P (m, m / g) averages g inputs, A (m / g, r), B (r, n),  c = alpha / r

Xu et al. 2023, arXiv:2309.14717. All rows of a group change alike, as they do when the zero points
of a kernel that is quantized in such groups move. With g = 1, the method is LoRA. Two forms compute
the same: "additive" averages the inputs, "repeated" repeats the rows of A for other inputs. A
starts as that of LoRA, with `m / g` inputs; the authors start it by Xavier.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import mean, shape

from keras_svd_adapters.methods.algebra import constant, matmul, reshape
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.hyperparameters import check_division, check_positive_integers
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank.scaled_product import ScaledProduct


@dataclass(frozen=True, repr=False)
class QALoRA(ScaledProduct):
    """Quantization-aware LoRA: add `c P A B`, where P averages groups of inputs.

    The method trains `rank * (m / group + n)` values per `(m, n)` kernel. Use it on a kernel that
    is quantized in groups of as many inputs: all rows of a group change alike. Keras stores zero
    points as integers, so `merge` cannot add the change to them exactly: use
    `merge(model, quantized="float")`, or `"requantize"`, which rounds.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1. The authors use a scale of 1/4.
        rslora: Boolean. Whether to scale by `alpha / sqrt(rank)` instead.
        dropout: Float in [0, 1), the dropout rate for the input of the branch
            only.
        group: Integer, the number of inputs that share one row of A. It must
            divide the number of inputs. An EinsumDense counts its contracted
            axes as inputs, in the order of the kernel as a matrix.

    Raises:
        ValueError: If a hyperparameter is out of its range, or `group` does not
            divide the number of inputs.

    Example:

    >>> keras_svd_adapters.methods.QALoRA(rank=4, group=32).trainable_count(384, 1536)
    6192

    Reference:
        - [Xu et al., 2023](https://arxiv.org/abs/2309.14717)
    """

    group: int = 32

    name: ClassVar[str] = "qa_lora"
    forms: ClassVar[tuple[str, ...]] = ("additive", "repeated")
    lookup_form: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(group=self.group)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def check(self, m: int, n: int) -> None:
        check_division("group", self.group, m=m)
        most = min(m // self.group, n)
        if self.rank > most:
            raise ValueError(
                f"In groups of {self.group} inputs, the update of a kernel of shape ({m}, {n}) has "
                f"rank {most} at the most: use `rank={most}` or less, a smaller `group`, or leave "
                f"this layer out with `exclude`. Received: rank={self.rank}, group={self.group}"
            )

    def form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        return "repeated" if self.group == 1 else "additive"

    def patch_form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        return "repeated"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            "lora_a": Array((m // self.group, self.rank), trainable=True),  # it need not be sharded
            "lora_b": Array((self.rank, n), trainable=True, start=0.0, axes=".n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"lora_a": kaiming(rng, (len(K) // self.group, self.rank))}

    def factors(self, v: SimpleNamespace) -> tuple[Any, Any]:
        (groups, r), g = v.lora_a.shape, self.group
        if g == 1:
            return v.lora_a, v.lora_b
        shares = constant(np.full((1, g, 1), 1 / g), v.lora_a)
        return reshape(v.lora_a[:, None] * shares, (groups * g, r)), v.lora_b

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        return super().coefficients(v, form, kernel) if form == "repeated" else vars(v)

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if form == "repeated":
            return super().apply(x, base, c, form, dropout)
        groups = reshape(dropout(x), (*shape(x)[:-1], x.shape[-1] // self.group, self.group))
        return base.plus(x, self.scale * matmul(mean(groups, axis=-1), c.lora_a), c.lora_b)
