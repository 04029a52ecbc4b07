"""Sums of what passes a kernel, in float64 on the host."""

from __future__ import annotations

import numpy as np

from keras_svd_adapters.methods.contract import Inputs


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


class InputSums:
    """Sums over the inputs of a kernel with `m` rows."""

    def __init__(self, m: int):
        self.rows, self.sum, self.squares = 0, np.zeros(m), np.zeros((m, m))

    def add(self, rows: np.ndarray, products: Products) -> None:
        """Add some rows."""
        total, squares = products.of(rows)
        self.rows += len(rows)
        self.sum += total
        self.squares += squares

    def moments(self) -> Inputs:
        """Return the moments of all rows."""
        if not self.rows:
            raise ValueError("No row of data reached this kernel, or all are padding")
        if not np.isfinite(self.squares).all():
            raise ValueError("The inputs of this kernel are NaN or infinite")
        return Inputs(self.rows, self.sum / self.rows, self.squares / self.rows)
