"""BitFit: train the biases alone.

    b' = b + shift        shift (n,) starts at 0

Ben-Zaken et al. 2022, arXiv:2106.10199. `b` is a bias of a layer, or the shift of a normalization.
The base's own bias stays as it is, so that the adapter can be switched off, merged and mixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keras_svd_adapters.methods.vectors.shift import Shift


@dataclass(frozen=True, repr=False)
class BitFit(Shift):
    """Bias-term fine-tuning: trains the biases of a model, and nothing else.

    It needs no decomposition and changes no kernel. Models without biases, such as
    Gemma and Llama, cannot use it. By default it covers all biases except those of
    the output head, which `train="head"` can train.

    Example:

    >>> keras_svd_adapters.methods.BitFit().trainable_count(1, 768)
    768

    Reference:
        - [Ben-Zaken et al., 2022](https://arxiv.org/abs/2106.10199)
    """

    name: ClassVar[str] = "bitfit"
    adapts: ClassVar[str] = "biases"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3
