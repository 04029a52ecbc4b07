"""VB-LoRA: the pieces of LoRA's factors are mixtures of a few vectors that all kernels share.

    K' = K + A B        each piece of A and B of length b is softmax(top_k(logits)) . bank

Li et al. 2024, arXiv:2405.15179. All kernels train one bank (h, b), uniform in +-0.02 at the start;
logits are normal with deviation 0.1. So `A B` starts at a hundredth of a kernel, not at the base.
By default, B has a bank of its own that starts at 0, and the start is exactly the base: VB-LoRA
with 2 h vectors, half of them for A. `one_bank=True` is the paper's form.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_svd_adapters.methods.algebra import matmul, reshape, transpose
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import check_division, check_positive_integers
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.random_bases import PortableRandom
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class VBLoRA(LowRankUpdate, Ranked):
    """Vector bank LoRA: kernels choose pieces of their factors from shared vectors.

    The method trains `rank * vectors * (m + n) / vector_length` values per
    kernel, and `2 * vectors * vector_length` once; with one bank, half of these.

    Args:
        rank: Integer, the rank of the update.
        vectors: Integer, the number of vectors that a piece is chosen from.
        vector_length: Integer, the length of a vector. It must divide m and n.
        top_k: Integer, the number of vectors that make a piece.
        one_bank: Boolean. Whether A and B choose from one bank, as in HF PEFT.
        seed: Integer, the seed of the start of the bank.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.VBLoRA(vectors=90, vector_length=128).trainable_count(384, 1536)
    28440

    Reference:
        - [Li et al., 2024](https://arxiv.org/abs/2405.15179)
    """

    rank: int = 4
    vectors: int = 256
    vector_length: int = 256
    top_k: int = 2
    one_bank: bool = False
    seed: int = 0

    name: ClassVar[str] = "vblora"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(vectors=self.vectors, vector_length=self.vector_length)
        if self.top_k not in range(1, self.vectors + 1):
            raise ValueError(f"`top_k` is 1 to {self.vectors}. Received: top_k={self.top_k}")

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    @property
    def starts_at_base(self) -> bool:
        return not self.one_bank

    @property
    def tied(self) -> tuple[str, ...]:
        return ("bank",) if self.one_bank else ("bank", "bank_b")

    def check(self, m: int, n: int) -> None:
        super().check(m, n)
        check_division("vector_length", self.vector_length, m=m, n=n)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r, h, b = self.rank, self.vectors, self.vector_length
        starts = {"bank": None, "bank_b": 0.0}
        banks = {k: Array((h, b), trainable=True, start=starts[k]) for k in self.tied}
        shapes = {"logits_a": (r, m // b, h), "logits_b": (n // b, r, h)}
        return banks | {k: Array(shape, trainable=True) for k, shape in shapes.items()}

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        shapes = {k: a.shape for k, a in self.arrays(K.shape[0], K.shape[1], form).items()}
        logits = {k: rng.normal(0, 0.1, shapes[k]) for k in ("logits_a", "logits_b")}
        return logits | {"bank": PortableRandom(self.seed).uniform(shapes["bank"], 0.02)}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        A = self.mixtures(v.logits_a, v.bank)  # (r, m / b, b)
        B = self.mixtures(v.logits_b, v.bank if self.one_bank else v.bank_b)  # (n / b, r, b)
        return transpose(reshape(A, (self.rank, -1))), reshape(
            ops.transpose(B, (1, 0, 2)), (self.rank, -1)
        )

    def low_rank(self, v: SimpleNamespace, m: int) -> tuple[Any, Any] | None:
        tensors = {k: ops.convert_to_tensor(a, dtype="float32") for k, a in vars(v).items()}
        left, right = self.factors(SimpleNamespace(**tensors), lambda: None)
        return ops.convert_to_numpy(left), ops.convert_to_numpy(right)

    def mixtures(self, logits: Any, bank: Any) -> Any:
        """Return the mixtures of the vectors with the largest logits, without a scatter."""
        places = ops.top_k(logits, self.top_k)[1][..., None]
        chosen = ops.cast(places == ops.arange(self.vectors, dtype="int32"), "float32")
        kept = ops.sum(chosen * logits[..., None, :], axis=-1)
        weights = ops.sum(ops.softmax(kept)[..., None] * chosen, axis=-2)
        return reshape(matmul(reshape(weights, (-1, self.vectors)), bank), (*logits.shape[:-1], -1))
