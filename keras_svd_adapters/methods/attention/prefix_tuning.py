"""Prefix tuning: trained keys and values in front of those of the tokens.

    y = softmax([q P_k^T, q k^T]) [P_v; v]        P_k (p, n), P_v (p, n)

Li and Liang 2021, arXiv:2101.00190. With `hidden`, the keys and values of a prefix come from one
embedding for all layers, as in the paper, in place of being trained themselves (`prefix_encoder`).

The prefix has no positions: rotary embeddings turn the queries, but not these keys. In PEFT, the
positions of the tokens start at p; its P_k is ours turned p positions further.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.attention.prefix_encoder import (
    TIED,
    encoded,
    encoder_arrays,
    start_encoder,
)
from keras_svd_adapters.methods.contract import SVD, Array, Dropout, Kernel
from keras_svd_adapters.methods.hyperparameters import (
    check_not_negative,
    check_positive_integers,
    check_seed,
)
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True, repr=False)
class PrefixTuning(Method):
    """Trains keys and values that all tokens attend to, before those of the text.

    The method adapts attention layers and changes no kernel. It trains
    `2 * length * n` values per layer, where `n` is the number of heads of keys
    times their size. An adapted model never equals the base model, not even
    at step 0: the prefix takes a share of the attention. In text generation,
    the cache holds tokens alone, and the prefix costs `length` more keys per
    token.

    Args:
        length: Integer, the number of keys and values in front of the text.
        hidden: Integer, the size of an embedding and of a hidden layer that make
            keys and values, or `None` to train these themselves. The embedding
            and the hidden layer are the same for all layers of the model.
        std: Float, the standard deviation of the start of keys and values. PEFT
            starts with 1.
        seed: Integer, the seed of the start of the embedding and the hidden layer.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.PrefixTuning(length=20).trainable_count(768, 768)
    30720

    Reference:
        - [Li and Liang, 2021](https://arxiv.org/abs/2101.00190)
    """

    length: int = 20
    hidden: int | None = None
    std: float = 0.02
    seed: int = 0

    name: ClassVar[str] = "prefix_tuning"
    adapts: ClassVar[str] = "attention"
    depends_on_input: ClassVar[str] = "the queries of the layer weigh its trained keys and values"

    def __post_init__(self) -> None:
        check_positive_integers(length=self.length)
        if self.hidden is not None:
            check_positive_integers(hidden=self.hidden)
        check_not_negative(std=self.std)
        check_seed(self.seed)

    @property
    def starts_at_base(self) -> bool:
        return False

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2 if self.hidden is None else 1e-3

    @property
    def tied(self) -> tuple[str, ...]:
        return () if self.hidden is None else TIED

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        if self.hidden is not None:
            return encoder_arrays(self.length, self.hidden, n)
        pair = Array((self.length, n), trainable=True, axes=".n")
        return {"keys": pair, "values": pair}

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        n = K.shape[1]
        if self.hidden is not None:
            return start_encoder(self.length, self.hidden, n, self.std, self.seed, rng)
        return {x: self.std * rng.normal(size=(self.length, n)) for x in ("keys", "values")}

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        return vars(v) if self.hidden is None else encoded(v)

    def apply(self, x: Any, base: Any, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        return base.attend(x, c.keys, c.values)
