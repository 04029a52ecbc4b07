"""BOFT: orthogonal fine-tuning by butterfly factors.

    K' = B_{f-1} ... B_0 K diag(scale)        scale (n,), starts at 1

Liu et al. 2024, arXiv:2311.06243. Each factor consists of `(b, b)` rotations
`(I - S)(I + S)^-1`. Factor i joins half blocks, of b / 2 inputs each, at a distance of 2^i half
blocks. The output scale is HF PEFT's; the paper's equations have none. PEFT trains whole blocks Z
with `S = (Z - Z^T) / 2`; here the strict upper triangles of S train, half as many values.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras_svd_adapters.methods.cayley import cayley_change, skew_count
from keras_svd_adapters.methods.contract import Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.multiplicative.block_rotation import (
    BlockRotation,
    check_block_size,
)


@dataclass(frozen=True, repr=False)
class BOFT(BlockRotation):
    """Butterfly orthogonal fine-tuning: rotate inputs by a product of sparse factors.

    The method trains `factors * m * (block_size - 1) / 2 + n` values per
    `(m, n)` kernel. With several factors, small blocks mix distant inputs. BOFT
    does not adapt embeddings.

    Args:
        block_size: Even integer, the number of inputs that one block mixes.
            `block_size * 2**(factors - 1)` must divide `m`. PEFT uses 4.
        factors: Integer, the number of butterfly factors. PEFT uses 1.

    Raises:
        ValueError: If a hyperparameter is out of its range, or the blocks do not
            divide the inputs of a kernel.

    Example:

    >>> keras_svd_adapters.methods.BOFT(block_size=8, factors=2).trainable_count(384, 1536)
    4224

    Weight decay does not apply to the scale. In bfloat16, a scale within 0.2 %
    of 1 has no effect, since the output is rounded.

    Reference:
        - [Liu et al., 2024](https://arxiv.org/abs/2311.06243)
    """

    block_size: int = 4
    factors: int = 1

    name: ClassVar[str] = "boft"

    def __post_init__(self) -> None:
        b = self.block_size
        if not isinstance(b, int) or b < 2 or b % 2:
            raise ValueError(
                f"`block_size` must be an even integer of 2 or more. Received: block_size={b!r}"
            )
        check_positive_integers(factors=self.factors)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def check(self, m: int, n: int) -> None:
        check_block_size(self.block_size, m, n, self.factors, step=2)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        sizes = (self.factors, m // self.block_size, skew_count(self.block_size))
        return {
            "skew": Array(sizes, trainable=True, start=0.0),
            "scale": Array((n,), trainable=True, start=1.0, axes="n"),
        }

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        return {"change": cayley_change(v.skew, self.block_size), "gain": v.scale - 1.0}

    def changes(self, c: SimpleNamespace) -> list[Any]:
        return [c.change[i] for i in range(self.factors)]

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        y = super().apply(x, base, c, form, dropout)
        return y + y * c.gain

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        change = super().delta(K, v, form)
        return change + (K + change) * (v.scale - 1.0)
