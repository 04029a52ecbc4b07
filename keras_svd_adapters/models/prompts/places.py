"""The places of prompts in a batch of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from keras import ops


class Places(Protocol):
    """Where the prompt of each sample stands."""

    @property
    def longest(self) -> int:
        """Number of rows of the longest prompt."""
        ...

    def insert(self, texts: Any, values: np.ndarray) -> Any:
        """Put values before texts: `(samples, tokens)` to `(samples, tokens + longest)`.

        Samples with shorter prompts, or none, have zeros at their end.
        """
        ...

    def remove(self, outputs: Any) -> Any:
        """Take the prompts out of `(samples, tokens + longest, ...)`, and zeros at the end."""
        ...


@dataclass(frozen=True)
class SamePlaces:
    """The same place in each sample.

    Args:
        longest: Number of rows.
        after: Number of tokens before the rows.
    """

    longest: int
    after: int

    def insert(self, texts: Any, values: np.ndarray) -> Any:
        shape = ops.shape(texts)[0], self.longest
        rows = ops.broadcast_to(ops.convert_to_tensor(values[None], texts.dtype), shape)
        return self._joined(texts[:, : self.after], rows, texts[:, self.after :])

    def remove(self, outputs: Any) -> Any:
        rest = outputs[:, self.after + self.longest :]
        return self._joined(outputs[:, : self.after], rest)

    def _joined(self, first: Any, *others: Any) -> Any:
        parts = (first, *others) if self.after else others
        return ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


@dataclass(frozen=True, eq=False)
class PlacesPerSample:
    """A place for each sample.

    Args:
        longest: Number of rows of the longest prompt.
        lengths: `(samples,)` integers, the number of rows.
        after: `(samples,)` integers, the number of tokens before the rows.
    """

    longest: int
    lengths: Any
    after: Any

    def insert(self, texts: Any, values: np.ndarray) -> Any:
        size = ops.shape(texts)[1]
        place = ops.arange(size + self.longest, dtype="int32")[None] - self.after[:, None]
        lengths = self.lengths[:, None]
        source = ops.where(place < 0, place, place - lengths) + self.after[:, None]
        text = ops.take_along_axis(texts, ops.clip(source, 0, size - 1), axis=1)
        text = ops.where(source < size, text, ops.zeros_like(text))
        values = ops.convert_to_tensor(values, texts.dtype)
        rows = ops.take(values, ops.clip(place, 0, self.longest - 1), axis=0)
        return ops.where(ops.logical_and(place >= 0, place < lengths), rows, text)

    def remove(self, outputs: Any) -> Any:
        shape = list(ops.shape(outputs))
        shape[1] = shape[1] - self.longest
        place = ops.arange(shape[1], dtype="int32")[None]
        source = place + ops.where(place < self.after[:, None], 0, self.lengths[:, None])
        source = ops.reshape(source, (*shape[:2], *[1] * (len(shape) - 2)))
        return ops.take_along_axis(outputs, ops.broadcast_to(source, shape), axis=1)
