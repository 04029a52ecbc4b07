"""BiLoRA: gates that learn from other data than their factors.

    K' = K + c A diag(mask * e) B        A (m, r), B (r, n),  e (r,) starts at 0,  c = alpha / r
    loss + orthogonality * mean over all A, B of |A^T A - I|_F, |B B^T - I|_F

Qiang et al. 2024, arXiv:2403.13037. The form and its start are those of AdaLoRA. The two data sets
alternate: e trains on one, A and B on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keras_svd_adapters.methods.gated.pseudo_svd import PseudoSVD


@dataclass(frozen=True, repr=False)
class BiLoRA(PseudoSVD):
    """Bi-level low-rank adaptation: the gates guard against overfitting.

    The method trains `rank * (m + n) + rank` values per `(m, n)` kernel. It is
    AdaLoRA's form, for a training that alternates between the gates on one part
    of the data and the factors on the other.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        orthogonality: Float, the weight of the term of the loss that keeps the
            factors orthogonal.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.BiLoRA(rank=4).trainable_count(384, 1536)
    7684

    Reference:
        - [Qiang et al., 2024](https://arxiv.org/abs/2403.13037)
    """

    rank: int = 8
    alpha: float | None = None
    orthogonality: float = 0.5

    name: ClassVar[str] = "bilora"
    schedule: ClassVar[str] = "Alternate"

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2
