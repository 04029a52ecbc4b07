"""Rollouts: completions of prompts, sampled by the generate function of a KerasHub task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from keras_svd_adapters.models.batches import as_array
from keras_svd_adapters.models.state.locked_model import running


@dataclass(frozen=True)
class Rollout:
    """Prompts with sampled completions.

    Args:
        token_ids: Integers `(samples, length)`: prompt, completion, padding.
        padding_mask: Which of them are tokens of the prompt or of the completion.
        is_sampled: Booleans: the tokens of the completion, up to and including the end token.
        prompts: The prompt of each sample, as the reward gets it.
        completions: The completion of each sample, as the reward gets it.
    """

    token_ids: np.ndarray
    padding_mask: np.ndarray
    is_sampled: np.ndarray
    prompts: list[Any]
    completions: list[Any]

    def first(self, count: int) -> Rollout:
        """Return the first samples."""
        return Rollout(*(getattr(self, each.name)[:count] for each in fields(self)))


class Sampler:
    """Samples completions of prompts.

    Args:
        task: A KerasHub `CausalLM`.
        max_length: Integer, number of tokens of a prompt and its completion.
        stop_token_ids: Ids that end a completion, `"auto"` for those of the tokenizer, or `None`.
    """

    def __init__(self, task: Any, max_length: int, stop_token_ids: Any):
        self.task, self.max_length = task, max_length
        self.stop_token_ids = stop_token_ids
        if stop_token_ids == "auto":
            tokenizer = task.preprocessor.tokenizer
            names = ("end_token_id", "end_token2_id")
            found = [getattr(tokenizer, name, None) for name in names]
            self.stop_token_ids = tuple(number for number in found if number is not None)

    @contextmanager
    def sampling(self, temperature: float) -> Iterator[None]:
        """Context manager: the task samples at a temperature; afterwards, as before."""
        from keras_hub.samplers import RandomSampler

        task = self.task
        before = task.sampler, task.generate_function
        task.sampler, task.generate_function = RandomSampler(temperature=temperature, seed=0), None
        try:
            yield
        finally:
            task.sampler, task.generate_function = before[0], None
            if before[1] is not None:
                task.generate_function = before[1]

    def sample(self, prompts: Sequence[Any], seed: np.random.Generator) -> Rollout:
        """Return a completion of each prompt.

        Args:
            prompts: Texts, or arrays of token ids if the task has no preprocessor.
            seed: Generator of random numbers; it alone determines what is sampled.
        """
        inputs = self._inputs(prompts)
        state = self.task.sampler.seed_generator.state
        state.assign(seed.integers(0, 2**31, size=2).astype("uint32"))
        with running(self.task, alone=True):
            generate = self.task.make_generate_function()
            found = generate(dict(inputs), stop_token_ids=self.stop_token_ids)
        token_ids = as_array(found["token_ids"])
        mask: np.ndarray = as_array(found["padding_mask"]).astype(bool)
        is_sampled = mask & ~inputs["padding_mask"].astype(bool)
        return Rollout(
            token_ids,
            mask.astype(inputs["padding_mask"].dtype),
            is_sampled,
            list(prompts),
            self._completions(token_ids, is_sampled),
        )

    def _inputs(self, prompts: Sequence[Any]) -> dict[str, np.ndarray]:
        if self.task.preprocessor is None:
            return padded(prompts, self.max_length)
        found = self.task.preprocessor.generate_preprocess(
            list(prompts), sequence_length=self.max_length
        )
        return {name: as_array(found[name]) for name in ("token_ids", "padding_mask")}

    def _completions(self, token_ids: np.ndarray, is_sampled: np.ndarray) -> list[Any]:
        rows = [ids[sampled] for ids, sampled in zip(token_ids, is_sampled, strict=True)]
        if self.task.preprocessor is None:
            return rows
        inputs = padded(rows, self.max_length)
        texts = self.task.preprocessor.generate_postprocess(inputs)
        return [text.decode() if isinstance(text, bytes) else str(text) for text in list(texts)]


def padded(rows: Sequence[Any], length: int) -> dict[str, np.ndarray]:
    """Return token ids of different lengths as an array with zeros behind, and its mask."""
    token_ids: np.ndarray = np.zeros((len(rows), length), "int32")
    padding_mask: np.ndarray = np.zeros((len(rows), length), bool)
    for place, row in enumerate(rows):
        token_ids[place, : len(row)] = row
        padding_mask[place, : len(row)] = True
    return {"token_ids": token_ids, "padding_mask": padding_mask}
