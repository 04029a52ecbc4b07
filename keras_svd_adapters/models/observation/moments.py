"""Sums of what passes a kernel, in float64 on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_svd_adapters.methods.contract import Inputs, Magnitudes


class Products:
    """The sums of some rows, and of their products; equal rows that follow each other share them.

    Kernels of queries, keys and values have the same inputs.
    """

    def __init__(self) -> None:
        self._rows = self._sum = self._squares = np.zeros((0, 0))

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum of `(t, m)` rows, and `rows^T rows`."""
        if not np.array_equal(rows, self._rows):
            exact: np.ndarray = rows.astype("float64")
            self._rows, self._sum, self._squares = rows, exact.sum(axis=0), exact.T @ exact
        return self._sum, self._squares


class RowSums:
    """Base class of sums over the rows that pass a kernel.

    Args:
        products: The sums that kernels with equal rows share.
    """

    def __init__(self, products: Products):
        self.rows, self.products = 0, products
        self._totals: list[np.ndarray] = []

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

    def of(self, rows: np.ndarray) -> tuple[Any, ...]:
        return self.products.of(rows)

    def of_means(self, *means: Any) -> Inputs:
        return Inputs(self.rows, *means)


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


SUMS: dict[str, type[RowSums]] = {
    "inputs": InputSums,
    "magnitudes": MagnitudeSums,
    "branch_norms": BranchSums,
}
