"""What a method and the layer that carries it say to each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np


class Array(NamedTuple):
    """Declaration of one array of a method.

    Args:
        shape: Its shape.
        trainable: Whether it is trained. Trained arrays are float32.
        start: The value that all its entries start at, `None` if `Method.start`
            gives them. Weight decay acts on a trained array that starts at 0
            and leaves every other alone.
        dtype: `"compute"` for the compute dtype of the layer, else a dtype.
        saved: Whether a frozen array goes into the adapter file, since the
            base model cannot give it back.
        shared: Whether the model has one such array, of which each kernel
            reads the leading part, as large as `shape`. Such arrays are frozen.
        axes: A letter for each axis: `m` for the inputs of the kernel, `n` for its
            outputs, `.` for any other. Where the kernel lies in parts on several
            devices, so does the array along its `m` or `n`.
    """

    shape: tuple[int, ...]
    trainable: bool = False
    start: float | None = None
    dtype: str = "float32"
    saved: bool = False
    shared: bool = False
    axes: str = ""

    @property
    def in_file(self) -> bool:
        """Whether the adapter file holds it."""
        return self.trainable or self.saved


class SVD(Protocol):
    """Economy decomposition `K = U diag(s) Vt`, `s` from large to small.

    One of the factors may be made only when it is asked for.
    """

    @property
    def U(self) -> np.ndarray: ...

    @property
    def s(self) -> np.ndarray: ...

    @property
    def Vt(self) -> np.ndarray: ...

    def part(self, which: slice) -> SVD:
        """Some of the triplets, at the cost of these alone."""
        ...


class Base(Protocol):
    """The frozen layer as its method sees it."""

    @property
    def shape(self) -> tuple[int, int]:
        """`(m, n)`, that of the kernel as a matrix."""
        ...

    @property
    def tokens(self) -> int:
        """How many rows `x` has, about: a size that is open counts as 16."""
        ...

    def matrix(self) -> Any:
        """`K`, as a matrix in the dtype that the layer computes in."""
        ...

    def __call__(self, x: Any, delta: Any = None) -> Any:
        """`x K`, or `x (K + delta)` where an `(m, n)` delta is given."""
        ...

    def plus(self, x: Any, h: Any, matrix: Any, y: Any = None) -> Any:
        """`x K + h B` for an `(r, n)` matrix B; `y` is `x K` where that is known."""
        ...

    def shift(self, x: Any, d: Any) -> Any:
        """`(x + d) K`."""
        ...

    def times(self, x: Any, matrix: Any) -> Any:
        """`x A` for any `(m, r)` matrix; an embedding looks its rows up."""
        ...


class Truncation(NamedTuple):
    """The part of a decomposition that a method asks for: about the largest triplets.

    Args:
        rank: How many.
        oversampling: How many more are computed, for their accuracy.
        seed: Of the random block that the computation starts from.
    """

    rank: int
    oversampling: int
    seed: int


Kernel = Callable[[], Any]
Dropout = Callable[[Any], Any]
