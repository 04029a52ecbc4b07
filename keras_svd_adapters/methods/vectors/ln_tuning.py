"""LN tuning: train the scales and shifts of the normalizations alone.

    g' = g + shift        shift (n,) starts at 0

Qi et al. 2022, arXiv:2211.08682; Zhao et al. 2024, arXiv:2312.11420. `g` is the scale or the shift
of a normalization. The base's own vector stays as it is, so that the adapter can be switched off,
merged and mixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keras_svd_adapters.methods.vectors.shift import Shift


@dataclass(frozen=True, repr=False)
class LNTuning(Shift):
    """Trains the scales and shifts of all normalizations of a model, and nothing else.

    It needs no decomposition and changes no kernel. Batch
    normalizations are left out, because their moving statistics would change:
    `train=` can train these.

    Example:

    >>> keras_svd_adapters.methods.LNTuning().trainable_count(1, 768)
    768

    Reference:
        - [Qi et al., 2022](https://arxiv.org/abs/2211.08682)
        - [Zhao et al., 2024](https://arxiv.org/abs/2312.11420)
    """

    name: ClassVar[str] = "ln_tuning"
    adapts: ClassVar[str] = "norms"

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2
