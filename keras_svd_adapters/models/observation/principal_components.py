"""Principal components of sums over rows, whole or from a sketch, in float64 on the host."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

from keras_svd_adapters.methods.statistics import Components

COLUMNS = 512  # of a sketch, at least
OVERSAMPLING = 4  # columns for each component


def sketch_of(m: int, count: int) -> np.ndarray | None:
    """Return an orthonormal `(m, q)` matrix for some components.

    It is `None` where whole products are as cheap.
    """
    columns = max(COLUMNS, OVERSAMPLING * count)
    if 2 * columns >= m:
        return None
    return np.linalg.qr(np.random.default_rng(0).normal(size=(m, columns)))[0]


def principal_components(
    rows: int,
    count: int,
    sketch: np.ndarray | None,
    mean: np.ndarray,
    product: np.ndarray,
    energy: float,
) -> Components:
    """Return the largest principal components of some rows.

    They are those of the covariance C if there is no sketch. Else, they are those of its Nystrom
    approximation `C G (G^T C G)^-1 G^T C` (Tropp et al. 2017, arXiv:1706.05736). Its error, in the
    nuclear norm, is at most `1 + k / (q - k - 1)` times the variance beyond the first k components,
    on average, for each k below `q - 1`.

    Args:
        rows: The number of rows.
        count: The number of components.
        sketch: An `(m, q)` matrix G, or `None`.
        mean: The mean of the rows.
        product: The mean of `x^T x G`, or of `x^T x`.
        energy: The mean of `|x|^2`.
    """
    across = mean if sketch is None else mean @ sketch
    centered = product - np.outer(mean, across)
    if sketch is None:
        first = max(0, len(mean) - count)
        values, vectors = eigh(centered, subset_by_index=(first, len(mean) - 1))
        values, vectors = values[::-1], vectors[:, ::-1]
    else:
        values, vectors = _nystrom(centered, sketch)
    values, vectors = np.maximum(values[:count], 0.0), vectors[:, :count].copy()
    return Components(rows, vectors, values, max(float(energy - mean @ mean), 0.0))


def _nystrom(product: np.ndarray, sketch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues and eigenvectors of the approximation of C from `C G` and G."""
    values, vectors = eigh(sketch.T @ product)
    kept = values > np.finfo("float64").eps * len(sketch) * max(values[-1], 0.0)
    root = product @ (vectors[:, kept] / np.sqrt(values[kept]))
    U, s, _ = np.linalg.svd(root, full_matrices=False)
    more = sketch.shape[1] - len(s)  # directions in which nothing varies
    basis = np.linalg.qr(np.concatenate([U, sketch[:, :more]], axis=1))[0]
    return np.append(s**2, np.zeros(more)), np.append(U, basis[:, len(s) :], axis=1)
