"""Some singular triplets of a kernel as frozen arrays."""

from __future__ import annotations

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.hyperparameters import check_positive_integers, check_rank


def check_triplets(rank: int, first: int, m: int | None = None, n: int | None = None) -> None:
    """Raise `ValueError` if these triplets cannot be, in general or in an `(m, n)` kernel."""
    check_positive_integers(rank=rank)
    if not isinstance(first, int) or first < 0:
        raise ValueError(f"`first` must be a non-negative integer. Received: first={first!r}")
    if m is None or n is None:
        return
    check_rank(rank, m, n)
    if first + rank > min(m, n):
        raise ValueError(
            f"A kernel of shape ({m}, {n}) has {min(m, n)} singular triplets; use "
            f"`first={min(m, n) - rank}` or less. Received: rank={rank}, first={first}"
        )


def triplet_arrays(m: int, n: int, rank: int, dtype: str = "compute") -> dict[str, Array]:
    """Return the declarations of U (m, r), s (r,) and Vt (r, n)."""
    return {
        "s": Array((rank,)),
        "U": Array((m, rank), dtype=dtype, axes="m."),
        "Vt": Array((rank, n), dtype=dtype, axes=".n"),
    }


def triplets(svd: SVD | None, first: int, rank: int) -> dict[str, np.ndarray]:
    """Return the values of these arrays."""
    assert svd is not None
    part = svd.part(slice(first, first + rank))
    return {"s": part.s, "U": part.U, "Vt": part.Vt}
