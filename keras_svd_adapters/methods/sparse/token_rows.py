"""TokenRows: train selected rows of a table, each as a whole.

    K' = K + S D      S (m, r) selects the rows,  D (r, n) starts at 0

This method suits tokens that are new to a model, or that have another meaning in a task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import cast, convert_to_tensor, equal, one_hot

from keras_svd_adapters.methods.algebra import matmul, plus_product
from keras_svd_adapters.methods.contract import Array, Base, Dropout
from keras_svd_adapters.methods.hyperparameters import check_rows, integers
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True, repr=False)
class TokenRows(Method):
    """Train selected rows of a kernel, such as an embedding, with `n` values per row.

    Args:
        rows: Integers, the indices of the rows: for an embedding the ids of
            tokens.

    Raises:
        ValueError: If `rows` are not distinct row indices.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Embedding(50, 8, name="words")])
    >>> ksa.enable(model, ksa.TokenRows([48, 49]), targets="words").trainable_parameters
    16

    Reference:
        - [Trainable tokens of PEFT](https://huggingface.co/docs/peft/package_reference/trainable_tokens)
    """

    rows: Iterable[int]

    name: ClassVar[str] = "token_rows"
    linear: ClassVar[dict[str, float]] = {"shift": 0.0}
    forms: ClassVar[tuple[str, ...]] = ("additive", "lookup")
    lookup_form: ClassVar[str | None] = "lookup"

    def __post_init__(self) -> None:
        meaning = "row numbers, such as the ids of tokens, `TokenRows([48, 49])`"
        listed = integers(self.rows, "rows", meaning)
        if len(set(listed)) < len(listed):
            raise ValueError(f"`rows` must be distinct. Received: rows={self.rows!r}")
        object.__setattr__(self, "rows", listed)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3

    def check(self, m: int, n: int) -> None:
        check_rows(m, rows=self.rows)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {"shift": Array((len(tuple(self.rows)), n), trainable=True, start=0.0, axes=".n")}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if form == "lookup":  # x holds indices; few are selected
            chosen = cast(equal(x[..., None], convert_to_tensor(self.rows, x.dtype)), c.shift.dtype)
        else:
            chosen = base.times(x, self._select(base.shape[0], c))
        return plus_product(base(x), chosen, c.shift)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return matmul(self._select(K.shape[0], v), v.shift)

    def low_rank(self, v: SimpleNamespace, m: int) -> tuple[Any, Any] | None:
        selection = np.zeros((m, len(v.shift)))
        selection[list(self.rows), range(len(v.shift))] = 1.0
        return selection, v.shift

    def _select(self, m: int, v: SimpleNamespace) -> Any:
        return one_hot(self.rows, m, axis=0, dtype=v.shift.dtype)
