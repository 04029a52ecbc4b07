"""Angles between the kernel updates of a model's adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

from keras_svd_adapters.runtime.path_groups import group_similar_paths
from keras_svd_adapters.runtime.tables import Table, TableReport

NONE = "-"


@dataclass(frozen=True)
class KernelSimilarity:
    """Similarity of the updates that two adapters make to one kernel.

    Args:
        path: The path of the kernel.
        product: Inner product of the updates.
        norms: Norm of each update.
    """

    path: str
    product: float
    norms: tuple[float, float]

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between the updates; `None` if one of them is zero."""
        return _cosine([self])


@dataclass(frozen=True)
class PairSimilarity:
    """Similarity of two adapters.

    Args:
        names: The names of the two adapters.
        kernels: One `KernelSimilarity` per kernel that both adapt.
    """

    names: tuple[str, str]
    kernels: tuple[KernelSimilarity, ...]

    @property
    def cosine(self) -> float | None:
        """The cosine over all these kernels; `None` if an adapter changes none of them."""
        return _cosine(self.kernels)


@dataclass(frozen=True, repr=False)
class Similarity(TableReport):
    """Similarity of adapters. Printing it shows a table.

    Kernels whose paths differ only by numbers share a row with the cosine over all of them.

    Args:
        pairs: One `PairSimilarity` for each two of the adapters.
    """

    pairs: tuple[PairSimilarity, ...]

    def cosine(self, first: str, second: str) -> float | None:
        """Return the cosine between two adapters, in any order.

        Args:
            first: Name of one adapter.
            second: Name of the other adapter.

        Returns:
            A number from -1 to 1, or `None` if one adapter changes none of the
            kernels that both adapt.
        """
        for pair in self.pairs:
            if set(pair.names) == {first, second}:
                return pair.cosine
        compared = ", ".join(" and ".join(map(repr, pair.names)) for pair in self.pairs)
        raise ValueError(
            f"These two were not compared; there are {compared}. Received: {first!r}, {second!r}"
        )

    def as_table(self) -> Table:
        rows = [row for pair in self.pairs for row in _rows(pair)]
        notes = "cosine of their updates of the kernels: 1 the same, 0 unrelated, -1 the opposite"
        if any(row[-1] == NONE for row in rows):
            notes += f"\n{NONE}: one of the two changes nothing there, and so has no direction"
        return Table(("adapters", "kernel", "kernels", "cosine"), rows, notes)


def _cosine(kernels: Sequence[KernelSimilarity]) -> float | None:
    """Return the cosine with the updates of several kernels taken as one vector."""
    sizes = [sqrt(sum(k.norms[i] ** 2 for k in kernels)) for i in (0, 1)]
    if not all(sizes):
        return None
    return sum(kernel.product for kernel in kernels) / sizes[0] / sizes[1]


def _rows(pair: PairSimilarity) -> Iterator[tuple[str, ...]]:
    names = ", ".join(pair.names)
    what = "all that both adapt" if pair.kernels else "they adapt none in common"
    yield names, what, str(len(pair.kernels)), _shown(pair.cosine)
    for path, kernels in group_similar_paths(pair.kernels).items():
        yield names, path, str(len(kernels)), _shown(_cosine(kernels))


def _shown(cosine: float | None) -> str:
    return NONE if cosine is None else f"{cosine:.3f}"
