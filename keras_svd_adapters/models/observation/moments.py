"""Sums of what passes a kernel, in float64 on the host."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

from keras_svd_adapters.methods.contract import Components, Inputs

COLUMNS = 512  # of a sketch, at least
OVERSAMPLING = 4  # columns for each component


def sketch_of(m: int, components: int) -> np.ndarray | None:
    """Return an orthonormal `(m, q)` matrix, or `None` where whole products are as cheap."""
    columns = max(COLUMNS, OVERSAMPLING * components)
    if 2 * columns >= m:
        return None
    return np.linalg.qr(np.random.default_rng(0).normal(size=(m, columns)))[0]


class Products:
    """The sums of some rows, and of their products; equal rows that follow each other share them.

    Kernels of queries, keys and values have the same inputs.
    """

    def __init__(self) -> None:
        self._rows = np.zeros((0, 0))
        self._sketch: np.ndarray | None = None
        self._found: tuple[np.ndarray, np.ndarray, float] | None = None

    def of(
        self, rows: np.ndarray, sketch: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the sum of `(t, m)` rows, `rows^T rows`, times the sketch, and its trace."""
        is_known = sketch is self._sketch and np.array_equal(rows, self._rows)
        if self._found is None or not is_known:
            exact: np.ndarray = rows.astype("float64")
            squares = exact.T @ (exact if sketch is None else exact @ sketch)
            self._rows, self._sketch = rows, sketch
            self._found = exact.sum(axis=0), squares, float(np.vdot(exact, exact))
        return self._found


class InputSums:
    """Sums over the inputs of a kernel with `m` rows.

    Args:
        m: The number of inputs.
        sketch: An `(m, q)` matrix G. The sum of `x^T x G` is kept, of `8 m q` bytes, instead of
            that of `x^T x`, of `8 m^2` bytes.
    """

    def __init__(self, m: int, sketch: np.ndarray | None = None):
        self.sketch = sketch
        self.rows, self.sum, self.energy = 0, np.zeros(m), 0.0
        self.squares = np.zeros((0, 0))  # until there are rows

    def add(self, rows: np.ndarray, products: Products) -> None:
        """Add some rows."""
        total, squares, energy = products.of(rows, self.sketch)
        if not self.rows:
            self.squares = np.zeros(squares.shape)
        self.rows += len(rows)
        self.sum += total
        self.squares += squares
        self.energy += energy

    def check(self) -> None:
        """Raise `ValueError` if there are no rows, or numbers that are not finite."""
        if not self.rows:
            raise ValueError("No row of data reached this kernel, or all are padding")
        if not np.isfinite(self.squares).all():
            raise ValueError("The inputs of this kernel are NaN or infinite")

    def moments(self) -> Inputs:
        """Return the moments of all rows."""
        self.check()
        return Inputs(self.rows, self.sum / self.rows, self.squares / self.rows)

    def components(self, count: int) -> Components:
        """Return the principal components of all rows.

        They are those of the covariance C if the sums are whole. Else, they are those of its
        Nystrom approximation `C G (G^T C G)^-1 G^T C` (Tropp et al. 2017, arXiv:1706.05736). Its
        error, in the nuclear norm, is at most `1 + k / (q - k - 1)` times the variance beyond the
        first k components, on average, for each k below `q - 1`.
        """
        self.check()
        mean = self.sum / self.rows
        across = mean if self.sketch is None else mean @ self.sketch
        centered = self.squares / self.rows - np.outer(mean, across)
        total = max(self.energy / self.rows - float(mean @ mean), 0.0)
        if self.sketch is None:
            first = max(0, len(mean) - count)
            values, vectors = eigh(centered, subset_by_index=(first, len(mean) - 1))
            values, vectors = values[::-1], vectors[:, ::-1]
        else:
            values, vectors = _nystrom(centered, self.sketch)
        values, vectors = np.maximum(values[:count], 0.0), vectors[:, :count].copy()
        return Components(self.rows, vectors, values, total)


def _nystrom(product: np.ndarray, sketch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues and eigenvectors of the approximation of C from `C G` and G."""
    values, vectors = eigh(sketch.T @ product)
    kept = values > np.finfo("float64").eps * len(sketch) * max(values[-1], 0.0)
    root = product @ (vectors[:, kept] / np.sqrt(values[kept]))
    U, s, _ = np.linalg.svd(root, full_matrices=False)
    more = sketch.shape[1] - len(s)  # directions in which nothing varies
    basis = np.linalg.qr(np.concatenate([U, sketch[:, :more]], axis=1))[0]
    return np.append(s**2, np.zeros(more)), np.append(U, basis[:, len(s) :], axis=1)
