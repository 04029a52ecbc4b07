"""Sums of what passes a kernel, in float64 on the host."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from keras_svd_adapters.methods.statistics import Components, ExpertLoad, Inputs, Magnitudes
from keras_svd_adapters.models.observation.principal_components import (
    principal_components,
    sketch_of,
)


class Products:
    """What kernels with equal inputs that follow each other share, such as queries, keys, values.

    These are sums of rows and of their products, and their principal components.
    """

    def __init__(self) -> None:
        self._rows = np.zeros((0, 0))
        self._sketch: np.ndarray | None = None
        self._found: tuple[np.ndarray, np.ndarray, float] | None = None
        self._means: tuple[Any, ...] = ()
        self._components: Components | None = None
        self.sketch = cache(sketch_of)

    def of(
        self, rows: np.ndarray, sketch: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the sum of `(t, m)` rows, `rows^T rows` times the sketch, and their energy."""
        is_known = sketch is self._sketch and np.array_equal(rows, self._rows)
        if self._found is None or not is_known:
            exact: np.ndarray = rows.astype("float64")
            squares = exact.T @ (exact if sketch is None else exact @ sketch)
            self._rows, self._sketch = rows, sketch
            self._found = exact.sum(axis=0), squares, float(np.vdot(exact, exact))
        return self._found

    def components(self, rows: int, count: int, *means: Any) -> Components:
        """Return the principal components of rows, by the means of what `of` returns."""
        key = (rows, count, *means)
        if len(self._means) != len(key) or not all(map(np.array_equal, self._means, key)):
            sketch = self.sketch(len(means[0]), count)
            self._components = principal_components(rows, count, sketch, *means)
            self._means = key
        assert self._components is not None
        return self._components


class RowSums:
    """Base class of sums over the rows that pass a kernel.

    Args:
        products: The sums that kernels with equal rows share.
        components: The number of principal components to find, if any.
    """

    def __init__(self, products: Products, components: int = 0):
        self.rows, self.products, self.components = 0, products, components
        self._totals: list[np.ndarray] = []

    @staticmethod
    def bytes_for(m: int) -> int:
        """Return the memory that the sums of a kernel with m inputs need, 0 if it is little."""
        return 0

    def add(self, rows: np.ndarray) -> None:
        """Add some rows."""
        found = self.of(rows)
        if not self.rows:
            self._totals = [np.array(each) for each in found]
        else:
            for total, each in zip(self._totals, found, strict=True):
                total += each
        self.rows += len(rows)

    def statistics(self) -> Any:
        """Return the statistics of all rows."""
        if not self.rows:
            raise ValueError("No row of data reached this kernel, or all are padding")
        if not all(np.isfinite(total).all() for total in self._totals):
            raise ValueError("The inputs of this kernel are NaN or infinite")
        return self.of_means(*(total / self.rows for total in self._totals))

    def of(self, rows: np.ndarray) -> tuple[Any, ...]:
        """Return sums over some rows, in float64."""
        raise NotImplementedError

    def of_means(self, *means: Any) -> Any:
        """Return the statistics, given the sums divided by the number of rows."""
        raise NotImplementedError


class InputSums(RowSums):
    """Sums of the inputs, and of their products."""

    @staticmethod
    def bytes_for(m: int) -> int:
        return 8 * m**2

    def of(self, rows: np.ndarray) -> tuple[Any, ...]:
        return self.products.of(rows)[:2]

    def of_means(self, *means: Any) -> Inputs:
        return Inputs(self.rows, *means)


class ComponentSums(RowSums):
    """Sums of the inputs x, of `x^T x G` for a sketch G of m rows and q columns, and of `|x|^2`.

    These are `8 m q` bytes. For small m, G is the identity. They do not count in `bytes_for`:
    ranks move between kernels only if all are in the first group.
    """

    def of(self, rows: np.ndarray) -> tuple[Any, ...]:
        m = rows.shape[-1]
        return self.products.of(rows, self.products.sketch(m, min(self.components, m)))

    def of_means(self, *means: Any) -> Components:
        return self.products.components(self.rows, min(self.components, len(means[0])), *means)


class MagnitudeSums(RowSums):
    """Sums of the sizes of the inputs, and of their squares."""

    def of(self, rows: np.ndarray) -> tuple[Any, ...]:
        sizes = np.abs(rows.astype("float64"))
        return sizes.sum(axis=0), (sizes**2).sum(axis=0)

    def of_means(self, *means: Any) -> Magnitudes:
        return Magnitudes(self.rows, *means)


class BranchSums(RowSums):
    """Sums of the squared norms of what an adapter adds to the outputs."""

    def of(self, rows: np.ndarray) -> tuple[Any, ...]:
        return ((rows.astype("float64") ** 2).sum(),)

    def of_means(self, *means: Any) -> float:
        return float(means[0])


class LoadSums(RowSums):
    """Sums of what a router gives to each expert."""

    def of(self, rows: np.ndarray) -> tuple[Any, ...]:
        exact: np.ndarray = rows.astype("float64")
        first = np.eye(exact.shape[-1])[exact.argmax(axis=-1)]
        return first.sum(axis=0), (exact > 0).sum(axis=0, dtype="float64"), exact.sum(axis=0)

    def of_means(self, *means: Any) -> ExpertLoad:
        return ExpertLoad(self.rows, *means)


SUMS: dict[str, type[RowSums]] = {
    "inputs": InputSums,
    "components": ComponentSums,
    "magnitudes": MagnitudeSums,
    "branch_norms": BranchSums,
    "expert_load": LoadSums,
}
