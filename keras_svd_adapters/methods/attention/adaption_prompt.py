"""Adaption prompt: attention to trained rows, added through a gate that starts at 0.

    y = softmax(q k^T) v + g softmax(q P_k^T) P_v        P_k = P K_k, P_v = P K_v,  P (p, m), g = 0

Zhang et al. 2023, arXiv:2303.16199 (LLaMA-Adapter). `K_k` and `K_v` are the frozen projections of
the layer, with their biases and its norm of keys; the rows have no positions. The sum precedes the
output projection. The paper adapts the top layers: `enable(..., last=30)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array, Dropout
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True, repr=False)
class AdaptionPrompt(Method):
    """Adds the attention to trained rows, times a gate that starts at 0.

    The method adapts attention layers and changes no kernel. It trains
    `length * m + 1` values per layer, where `m` is the size of the layer's
    inputs. The first step moves the gates alone, which then let gradients
    reach the rows.

    Args:
        length: Integer, the number of rows.

    Raises:
        ValueError: If `length` is not a positive integer.

    Example:

    >>> keras_svd_adapters.methods.AdaptionPrompt(length=10).trainable_count(768, 768)
    7681

    Reference:
        - [Zhang et al., 2023](https://arxiv.org/abs/2303.16199)
    """

    length: int = 10

    name: ClassVar[str] = "adaption_prompt"
    adapts: ClassVar[str] = "attention"
    depends_on_input: ClassVar[str] = "the queries of the layer weigh its trained keys and values"

    def __post_init__(self) -> None:
        check_positive_integers(length=self.length)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {
            "prompt": Array((self.length, m), trainable=True, axes=".m"),
            "gate": Array((1,), trainable=True, start=0.0),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"prompt": rng.normal(size=(self.length, len(K)))}

    def apply(self, x: Any, base: Any, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        keys, values = base.project(c.prompt)
        return base(x) + c.gate * base.attend(x, keys, values, alone=True)
