"""Rows that a model reads before each text, as tokens beyond its table.

    x [K; P]        P (p, n): the prompt; its rows have the ids m, m + 1, ..., m + p - 1

`K` stays as it is, so that ids of the table are looked up as in the frozen layer.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import cast, convert_to_tensor, equal

from keras_svd_adapters.methods.contract import Base, Dropout, Prompt
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.method import Method

IDS = "ids of tokens, as the tokenizer of the model returns them"


class PromptRows(Method):
    """Base class of methods whose `coefficients` hold a `prompt`, of shape `(p, n)`."""

    adapts: ClassVar[str] = "tokens"
    depends_on_input: ClassVar[str] = "its prompt stands before each text, outside of the table"
    forms: ClassVar[tuple[str, ...]] = ("lookup",)
    lookup_form: ClassVar[str | None] = "lookup"

    @property
    def prompt(self) -> Prompt:  # type: ignore[override]
        """Number and place of the rows."""
        raise NotImplementedError

    @property
    def starts_at_base(self) -> bool:
        return False

    def form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        return "lookup"

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        ids: np.ndarray = base.shape[0] + np.arange(self.prompt.length)
        chosen = equal(x[..., None], convert_to_tensor(ids, x.dtype))
        return base.plus(x, cast(chosen, c.prompt.dtype), c.prompt)


def check_prompt(prompt: Prompt) -> None:
    """Raise `ValueError` if a prompt cannot have this length or this place."""
    check_positive_integers(length=prompt.length)
    if prompt.after is not None and (type(prompt.after) is not int or prompt.after < 0):
        raise ValueError(
            "`after` is the number of tokens before the prompt, such as 0, or `None`. "
            f"Received: after={prompt.after!r}"
        )
