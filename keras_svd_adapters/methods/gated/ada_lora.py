"""AdaLoRA: ranks that a schedule prunes over all kernels, to a total budget.

    K' = K + c A diag(mask * e) B        A (m, r), B (r, n),  e (r,) starts at 0,  c = alpha / r
    loss + orthogonality * mean over all A, B of |A^T A - I|_F, |B B^T - I|_F

Zhang et al. 2023, arXiv:2303.10512. HF PEFT divides alpha by r + 1e-5 instead; here, c is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keras_svd_adapters.methods.gated.pseudo_svd import PseudoSVD


@dataclass(frozen=True, repr=False)
class AdaLoRA(PseudoSVD):
    """Adaptive low-rank adaptation: kernels that matter more keep more ranks.

    The method trains `rank * (m + n) + rank` values per `(m, n)` kernel. A
    schedule sets the masks of the ranks while the model trains; without one, all
    ranks stay. A term of the loss keeps the factors orthogonal, averaged over all
    kernels of the adapter. Loops of your own add `model.losses`.

    Args:
        rank: Integer, the rank at the start. The scale keeps this rank when
            ranks are pruned.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        orthogonality: Float, the weight of the term of the loss.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.AdaLoRA(rank=4).trainable_count(384, 1536)
    7684

    Reference:
        - [Zhang et al., 2023](https://arxiv.org/abs/2303.10512)
    """

    rank: int = 12
    alpha: float | None = None
    orthogonality: float = 0.5

    name: ClassVar[str] = "adalora"
    schedule: ClassVar[str] = "AdaLoRASchedule"

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2
