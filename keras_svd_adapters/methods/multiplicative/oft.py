"""OFT: orthogonal fine-tuning.

    K' = R K        R = diag(R_1, ..., R_{m/b}),  R_i = (I - S_i)(I + S_i)^-1,  S_i^T = -S_i

Qiu et al. 2023, arXiv:2306.07280; Qiu et al. 2025 (OFTv2), arXiv:2506.19847. As in OFTv2, `x` is
rotated instead of the kernel: `x K' = (x R) K`. HF PEFT's exact Cayley map has the same sign. Its
default, a truncated series, tends to the transpose: negate `skew` to convert. PEFT changes a block
size that does not divide `m`; here it raises an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras_svd_adapters.methods.cayley import cayley_change, skew_count
from keras_svd_adapters.methods.contract import Array, Kernel
from keras_svd_adapters.methods.multiplicative.block_rotation import (
    BlockRotation,
    check_block_size,
)


@dataclass(frozen=True, repr=False)
class OFT(BlockRotation):
    """Orthogonal fine-tuning: rotate blocks of a kernel's inputs.

    The method trains `m * (block_size - 1) / 2` values per `(m, n)` kernel. A
    rotation keeps the norms of the kernel's columns and the angles between
    them. OFT does not adapt embeddings.

    Args:
        block_size: Integer, the number of inputs that one block mixes. It must
            divide `m`. PEFT uses 32.
        shared_blocks: Boolean. Whether all blocks of a kernel share one
            rotation, so that `block_size * (block_size - 1) / 2` values train.

    Raises:
        ValueError: If `block_size` is less than 2, or does not divide the inputs
            of a kernel.

    Example:

    >>> keras_svd_adapters.methods.OFT(block_size=32).trainable_count(384, 1536)
    5952

    Reference:
        - [Qiu et al., 2023](https://arxiv.org/abs/2306.07280)
        - [Qiu et al., 2025](https://arxiv.org/abs/2506.19847)
    """

    block_size: int = 32
    shared_blocks: bool = False

    name: ClassVar[str] = "oft"

    def __post_init__(self) -> None:
        if not isinstance(self.block_size, int) or self.block_size < 2:
            raise ValueError(
                "`block_size` must be an integer of 2 or more. "
                f"Received: block_size={self.block_size!r}"
            )

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def check(self, m: int, n: int) -> None:
        check_block_size(self.block_size, m, n)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        blocks = 1 if self.shared_blocks else m // self.block_size
        return {"skew": Array((blocks, skew_count(self.block_size)), trainable=True, start=0.0)}

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        return {"change": cayley_change(v.skew, self.block_size)}

    def changes(self, c: SimpleNamespace) -> list[Any]:
        return [c.change]
