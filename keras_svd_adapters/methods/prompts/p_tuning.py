"""P-tuning: a prompt whose rows a small network computes.

    P = relu(relu(E W1 + b1) W2 + b2) W3 + b3        E (p, n) trains, as the network does

Liu et al. 2021, arXiv:2103.10385. The network is that of HF PEFT with layers alone; its
other one, an LSTM, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import relu

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array, Kernel, Prompt
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.prompts.prompt_rows import PromptRows, check_prompt

LAYERS = (1, 2, 3)


@dataclass(frozen=True, repr=False)
class PTuning(PromptRows):
    """P-tuning: a trained prompt whose rows go through a network of three layers.

    The method trains `length * n` values of the prompt and the network, which has
    `(2 * hidden + 1) * n + hidden * (hidden + 2)` values. `save_adapter` stores all
    of them, so that training can go on. `export_peft` writes the rows alone, which
    `import_peft` loads as `PromptTuning`.

    Args:
        length: Number of rows.
        hidden: Width of the network.
        after: As for `PromptTuning`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.PTuning(length=20, hidden=128).trainable_count(256000, 640)
    193920

    Reference:
        - [Liu et al., 2021](https://arxiv.org/abs/2103.10385)
    """

    length: int = 20
    hidden: int = 128
    after: int | None = None

    name: ClassVar[str] = "p_tuning"

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        check_positive_integers(hidden=self.hidden)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    @property
    def prompt(self) -> Prompt:  # type: ignore[override]
        return Prompt(self.length, self.after)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        sizes = (n, self.hidden, self.hidden, n)
        arrays = {"embedding": Array((self.length, n), trainable=True)}
        for layer in LAYERS:
            arrays[f"kernel_{layer}"] = Array((sizes[layer - 1], sizes[layer]), trainable=True)
            arrays[f"bias_{layer}"] = Array((sizes[layer],), trainable=True)
        return arrays

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        values = {"embedding": rng.normal(size=(self.length, K.shape[1]))}
        arrays = self.arrays(K.shape[0], K.shape[1], form)
        for layer in LAYERS:
            shape = arrays[f"kernel_{layer}"].shape
            values[f"kernel_{layer}"] = kaiming(rng, shape)
            values[f"bias_{layer}"] = kaiming(rng, shape)[0]  # in the range of its kernel
        return values

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        h = relu(matmul(v.embedding, v.kernel_1) + v.bias_1)
        h = relu(matmul(h, v.kernel_2) + v.bias_2)
        return {"prompt": matmul(h, v.kernel_3) + v.bias_3}
