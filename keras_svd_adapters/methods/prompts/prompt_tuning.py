"""Prompt tuning: trained rows before the embedded text.

    x [K; P]        P (p, n): the prompt

Lester et al. 2021, arXiv:2104.08691.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array, Prompt
from keras_svd_adapters.methods.hyperparameters import check_choice, check_rows, integers
from keras_svd_adapters.methods.prompts.prompt_rows import IDS, PromptRows, check_prompt
from keras_svd_adapters.methods.statistics import Statistics

STARTS = ("vocabulary", "random")


@dataclass(frozen=True, repr=False)
class PromptTuning(PromptRows):
    """Prompt tuning: train rows that the model reads before each text.

    The method trains `length * n` values in all, for a table of tokens with `n`
    columns. The model puts the prompt into its inputs, and takes the prompt's
    positions out of its outputs. Data, labels and generated text are the same as
    without it. The prompt takes part in attention and moves the text to later
    positions, so the model differs from the base from the start.

    Args:
        length: Number of rows.
        start: Where the rows start: `"vocabulary"` for the rows of random tokens,
            `"random"` for normal numbers with the deviation of the table, or the
            ids of a text, which are repeated or cut to the length.
        after: Number of tokens before the prompt. `None` is 1 for encoders whose
            first token stands for the class, such as BERT, and 0 for others.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.PromptTuning(length=20).trainable_count(256000, 640)
    12800

    Reference:
        - [Lester et al., 2021](https://arxiv.org/abs/2104.08691)
    """

    length: int = 20
    start: str | Iterable[int] = "vocabulary"  # type: ignore[assignment]  # see `first_values`
    after: int | None = None

    name: ClassVar[str] = "prompt_tuning"

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        if not isinstance(self.start, str):
            object.__setattr__(self, "start", integers(self.start, "start", IDS))
        else:
            check_choice("start", self.start, STARTS)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-2

    @property
    def prompt(self) -> Prompt:  # type: ignore[override]
        return Prompt(self.length, self.after)

    def check(self, m: int, n: int) -> None:
        if not isinstance(self.start, str):
            check_rows(m, ids=self.start)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {"prompt": Array((self.length, n), trainable=True, axes=".n")}

    def first_values(
        self,
        K: np.ndarray,
        form: str,
        rng: np.random.Generator,
        svd: SVD | None,
        data: Statistics,
    ) -> dict[str, np.ndarray]:
        if self.start == "random":
            return {"prompt": K.std() * rng.normal(size=(self.length, K.shape[1]))}
        if self.start == "vocabulary":
            ids = rng.choice(len(K), self.length, replace=self.length > len(K))
        else:
            ids = np.resize(self.start, self.length)
        return {"prompt": K[ids]}
