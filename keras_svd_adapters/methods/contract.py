"""Interface between a method and the layer that it adapts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np


class Array(NamedTuple):
    """Declaration of one array of a method.

    Args:
        shape: Shape of the array.
        trainable: Whether the array trains. Trained arrays are float32.
        start: The initial value of all entries, or `None` if `Method.start`
            computes the values. Weight decay applies only to trained arrays
            that start at 0.
        dtype: `"compute"` for the compute dtype of the layer, otherwise a
            dtype.
        saved: Whether the adapter file stores a frozen array because the base
            model cannot reproduce it.
        shared: Whether all kernels of the model share one such array. Each
            kernel reads the leading part, of shape `shape`. Shared arrays are
            frozen.
        axes: A letter for each axis: `m` for the inputs of the kernel, `n` for
            its outputs, `.` for any other axis. If the kernel is sharded over
            several devices, the array is sharded in the same way along its `m`
            or `n` axis.
        penalty: Function from the trained array, and from all arrays of the
            kernel, to a scalar that is added to the loss while the array trains.
            Both are in float32.
    """

    shape: tuple[int, ...]
    trainable: bool = False
    start: float | None = None
    dtype: str = "float32"
    saved: bool = False
    shared: bool = False
    axes: str = ""
    penalty: Callable[[Any, SimpleNamespace], Any] | None = None

    @property
    def in_file(self) -> bool:
        """Whether the adapter file stores the array."""
        return self.trainable or self.saved


class SVD(Protocol):
    """Economy decomposition `K = U diag(s) Vt`, with `s` from large to small.

    An implementation may compute one of the factors on demand.
    """

    @property
    def U(self) -> np.ndarray: ...

    @property
    def s(self) -> np.ndarray: ...

    @property
    def Vt(self) -> np.ndarray: ...

    def part(self, which: slice) -> SVD:
        """Return some of the triplets; only these are computed."""
        ...


class Base(Protocol):
    """Interface of the frozen layer for its method.

    While several adapters with weights are active, `base(x, delta)`, `plus` and `shift` may return
    zeros and note their arguments. If `apply` returns these zeros, the arguments are summed over
    the adapters; else, `apply` runs again with the layer itself.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Shape `(m, n)` of the kernel as a matrix."""
        ...

    @property
    def tokens(self) -> int:
        """Approximate number of rows of `x`; an unknown size counts as 16."""
        ...

    def matrix(self) -> Any:
        """Return `K` as a matrix in the compute dtype of the layer."""
        ...

    def __call__(self, x: Any, delta: Any = None) -> Any:
        """Return `x K`, or `x (K + delta)` if an `(m, n)` delta is given."""
        ...

    def plus(self, x: Any, h: Any, matrix: Any, y: Any = None) -> Any:
        """Return `x K + h B` for an `(r, n)` matrix B; `y` is `x K` if already known."""
        ...

    def shift(self, x: Any, d: Any) -> Any:
        """Return `(x + d) K`."""
        ...

    def times(self, x: Any, matrix: Any) -> Any:
        """Return `x A` for any `(m, r)` matrix; an embedding looks up its rows."""
        ...

    def sample_mean(self, values: Any) -> Any:
        """Return the mean of `(..., k)` values over the rows of each sample, for each row."""
        ...


class Attention(Base, Protocol):
    """Interface of a frozen attention layer for its method, whose `adapts` is `"attention"`.

    `x` holds queries, of shape `(..., tokens, heads, size)`, in which positions are encoded
    already, and `base(x)` is their attention to the tokens. Keys and values are `(p, n)`: the
    kernel of the layer's keys has `n` columns, for all of its heads.
    """

    def attend(self, x: Any, keys: Any, values: Any, alone: bool = False) -> Any:
        """Return the attention to these `p` pairs and to the tokens, or to the pairs `alone`."""
        ...

    def project(self, rows: Any) -> tuple[Any, Any]:
        """Return the keys and values that the frozen layer makes of `(p, m)` rows."""
        ...

    def in_groups(self, x: Any, groups: int) -> Any:
        """Return the attention within groups of tokens in training, or else `base(x)`.

        For half of the heads, the groups start half a group later.
        """
        ...


class Prompt(NamedTuple):
    """The rows that a method puts before each text; `prompt` of a method that adapts `"tokens"`.

    Their ids follow those of the table: `m`, `m + 1` and so on.

    Args:
        length: Number of rows.
        after: Number of tokens before the rows. `None` is 1 for encoders whose first
            token stands for the class, and 0 for others.
    """

    length: int
    after: int | None = None


class Truncation(NamedTuple):
    """Request for the largest triplets of a decomposition, computed approximately.

    Args:
        rank: Number of triplets.
        oversampling: Number of extra triplets, computed for accuracy.
        seed: Seed of the random block that the computation starts from.
    """

    rank: int
    oversampling: int
    seed: int


Kernel = Callable[[], Any]
Dropout = Callable[[Any], Any]
