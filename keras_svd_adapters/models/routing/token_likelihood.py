"""The log likelihood of tokens under a language model, with its adapters or without."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.mode import with_own_kernels
from keras_svd_adapters.models.sites.search import adapted_sites


class TokenLikelihood(keras.Model):
    """Model that returns the log probability of each next token.

    It has no weights of its own, so it can train those of the language model.

    Args:
        task: A KerasHub task that predicts the next token.
        temperature: Float, by which the logits are divided.
        of_base: Whether the adapted layers compute with their own kernels.
    """

    is_internal = True

    def __init__(self, task: keras.Model, temperature: float = 1.0, of_base: bool = False):
        super().__init__(name="token_likelihood", dtype=task.dtype_policy, autocast=False)
        self.task = task
        self.temperature = temperature
        self.of_base = of_base
        self.jit_compile = task.jit_compile
        self.run_eagerly = task.run_eagerly
        self.built = True

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The trained variables of the task, in the order that its optimizer knows."""
        return self.task.trainable_variables

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        return self.task.non_trainable_variables

    def call(self, data: Any, training: bool = False) -> Any:
        sites = adapted_sites(self.task) if self.of_base else []
        inputs = {name: data[name] for name in ("token_ids", "padding_mask")}
        with with_own_kernels(frozenset(id(site.layer) for site in sites)):
            logits = self.task(inputs, training=training)
        logits = ops.cast(logits, "float32") / self.temperature
        targets = data["targets"]
        return -ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)


def next_tokens(token_ids: np.ndarray, padding_mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs of `TokenLikelihood`: `(samples, length)` become `length - 1` targets."""
    return {
        "token_ids": token_ids[:, :-1],
        "padding_mask": padding_mask[:, :-1],
        "targets": token_ids[:, 1:],
    }


def likelihood_model(task: keras.Model) -> TokenLikelihood:
    """Return the `TokenLikelihood` of a task; it is made once, with its compiled functions."""
    found = vars(task).get("likelihood_model")
    if found is None:
        found = TokenLikelihood(task)
        object.__setattr__(task, "likelihood_model", found)
    return found
