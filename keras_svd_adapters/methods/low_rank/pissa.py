"""PiSSA and MiLoRA: LoRA that starts at singular triplets of the kernel.

    K' = K + c (A B - A0 B0)      A0 = U_r diag(s_r / c)^1/2,  B0 = diag(s_r / c)^1/2 Vt_r

Meng et al. 2024, arXiv:2404.02948 (r largest triplets); Wang et al. 2024, arXiv:2406.09044 (r
smallest). The papers subtract A0 B0 from the kernel. Here the kernel stays unchanged, and the code
computes the difference as (A - A0) B + A0 (B - B0). This form is exactly zero at the start in every
precision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array, Truncation
from keras_svd_adapters.methods.low_rank.scaled_product import ScaledProduct
from keras_svd_adapters.methods.low_rank.started_factors import difference, factor_arrays


def start_at(part: SVD, scale: float) -> dict[str, np.ndarray]:
    """Return the values of these arrays for some singular triplets."""
    root = np.sqrt(part.s / scale)
    a, b = part.U * root, root[:, None] * part.Vt
    return {"lora_a": a, "lora_b": b, "start_a": a, "start_b": b}


@dataclass(frozen=True, repr=False)
class PiSSA(ScaledProduct):
    """Principal singular values adaptation: LoRA on the largest singular triplets.

    The method trains `rank * (m + n)` values per `(m, n)` kernel, as LoRA does.
    PiSSA learns faster at first, because the most important directions train
    from the start.

    Args:
        rank: Integer, the number of triplets. The paper uses 16 to 128.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` sets
            alpha to `rank`, as in the paper.
        svd: `"exact"` or `"randomized"`. `"randomized"` is faster and
            approximates the largest triplets. With either, the model equals the
            base model at step 0.
        oversampling: Integer, the number of extra triplets that `"randomized"`
            computes.
        seed: Integer, the seed of `"randomized"`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.PiSSA(rank=4).trainable_count(384, 1536)
    7680

    The paper's learning rate is 2e-5 for large language models, without weight
    decay or dropout. This package also applies no weight decay to the factors.
    The package offers no dropout, because dropout is harmful here.

    Reference:
        - [Meng et al., 2024](https://arxiv.org/abs/2404.02948)
    """

    rslora: bool = field(default=False, init=False)
    dropout: float = field(default=0.0, init=False)
    svd: str = "exact"
    oversampling: int = 8
    seed: int = 0

    name: ClassVar[str] = "pissa"
    needs_svd: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ("additive",)
    lookup_form: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.svd not in ("exact", "randomized"):
            raise ValueError(f"`svd` must be 'exact' or 'randomized'. Received: svd={self.svd!r}")
        if not isinstance(self.oversampling, int) or self.oversampling < 0:
            raise ValueError(
                "`oversampling` must be a non-negative integer. "
                f"Received: oversampling={self.oversampling!r}"
            )

    @property
    def truncation(self) -> Truncation | None:
        if self.svd == "exact":
            return None
        return Truncation(self.rank, self.oversampling, self.seed)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3

    def triplets(self, k: int) -> slice:
        """Return the slice of the `k` singular triplets that the factors start at."""
        return slice(0, self.rank)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return factor_arrays(m, n, self.rank, zero=None, frozen=None)

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        assert svd is not None
        return start_at(svd.part(self.triplets(len(svd.s))), self.scale)

    def factors(self, v: SimpleNamespace) -> tuple[Any, Any]:
        return difference(v)
