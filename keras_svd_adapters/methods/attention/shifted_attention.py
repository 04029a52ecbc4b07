"""Shifted sparse attention: training on long texts within groups of tokens, as in LongLoRA.

    y = softmax(q k^T) v   within each of g groups of T / g neighbours

Chen et al. 2023, arXiv:2309.12307. For the second half of the heads, groups start half a group
later; the last of these groups holds the end and the beginning of a text. Outside of training,
attention is that of the base model.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras_svd_adapters.methods.contract import Array, Dropout
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True, repr=False)
class ShiftedAttention(Method):
    """Computes attention within groups of tokens while the model trains (LongLoRA).

    The method trains nothing: give LoRA to the kernels, and train embeddings
    and normalizations with `train`. The scores of a step are `1 / groups` of
    those of full attention, and twice as many in Gemma. The mask of the model
    stays in force, so that no token of a language model reads a later one. In
    the paper's code, the first tokens read the last ones in half of the heads.
    A sliding window that a layer itself applies (Qwen, Qwen3, Gemma) counts
    tokens within a group.

    Args:
        groups: Integer, the number of groups. The length of texts in training is
            a multiple of `2 * groups`.

    Raises:
        ValueError: If `groups` is not a positive integer.

    Example:

    >>> keras_svd_adapters.methods.ShiftedAttention(groups=4).trainable_count(768, 768)
    0

    Reference:
        - [Chen et al., 2023](https://arxiv.org/abs/2309.12307)
    """

    groups: int = 4

    name: ClassVar[str] = "shifted_attention"
    adapts: ClassVar[str] = "attention"
    depends_on_input: ClassVar[str] = "it computes attention in another way while the model trains"

    def __post_init__(self) -> None:
        check_positive_integers(groups=self.groups)

    @property
    def recommended_learning_rate(self) -> float:
        return 0.0

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {}

    def apply(self, x: Any, base: Any, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        return base.in_groups(x, self.groups)
