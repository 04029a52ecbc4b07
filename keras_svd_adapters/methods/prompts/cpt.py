"""CPT: a prompt of examples that moves within a ball around their embeddings.

    P = K[ids] + D min(1, c / |D|)        D (p, n) starts at 0; |D| of each row,
                                          c = radius sqrt(n / 2048)

Blau et al. 2024, arXiv:2410.17222. The paper projects `D` after each step. Here, the forward pass
projects it, so that any optimizer serves. `D` itself may leave the ball; the prompt does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import maximum, sum

from keras_svd_adapters.methods.algebra import SQUARE_OF_ZERO, constant
from keras_svd_adapters.methods.contract import SVD, Array, Kernel, Prompt
from keras_svd_adapters.methods.hyperparameters import check_positive, check_rows, integers
from keras_svd_adapters.methods.prompts.prompt_rows import IDS, PromptRows, check_prompt


@dataclass(frozen=True, repr=False)
class CPT(PromptRows):
    """Context-aware prompt tuning: train the embeddings of examples, near their start.

    The method trains `len(ids) * n` values in all, for a table of tokens with `n`
    columns. The prompt starts at the embeddings of the ids, so that the model reads
    the examples as if they stood before each text. The loss of the paper also counts
    the labels of the examples; this is left out.

    Args:
        ids: Integers, the ids of the examples: their inputs, labels and format.
        radius: Float, the largest distance of a row from its start, times
            `sqrt(2048 / n)`.
        labels: Places in `ids` of the labels, which stay as they are.
        after: As for `PromptTuning`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.CPT([5, 9, 2], labels=[2]).trainable_count(256000, 640)
    1920

    Reference:
        - [Blau et al., 2024](https://arxiv.org/abs/2410.17222)
    """

    ids: Iterable[int]
    radius: float = 0.1
    labels: Iterable[int] = ()
    after: int | None = None

    name: ClassVar[str] = "cpt"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", integers(self.ids, "ids", IDS))
        check_prompt(self.prompt)
        check_positive(radius=self.radius)
        places = f"places in `ids`, 0 to {self.prompt.length - 1}"
        object.__setattr__(self, "labels", integers(self.labels, "labels", places, least=0))
        if any(place >= self.prompt.length for place in self.labels):
            raise ValueError(f"`labels` holds {places}. Received: labels={self.labels!r}")

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3

    @property
    def prompt(self) -> Prompt:  # type: ignore[override]
        return Prompt(len(tuple(self.ids)), self.after)

    def check(self, m: int, n: int) -> None:
        check_rows(m, ids=self.ids)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        shape = self.prompt.length, n
        return {
            "shift": Array(shape, trainable=True, start=0.0, axes=".n"),
            "rows": Array(shape, saved=True, axes=".n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"rows": K[list(self.ids)]}

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        places = np.arange(self.prompt.length)[:, None]
        shift = v.shift * constant(~np.isin(places, self.labels), v.shift)
        size = (sum(shift * shift, axis=1, keepdims=True) + SQUARE_OF_ZERO) ** 0.5
        radius = self.radius * sqrt(v.shift.shape[1] / 2048)
        return {"prompt": v.rows + shift * (radius / maximum(size, radius))}
