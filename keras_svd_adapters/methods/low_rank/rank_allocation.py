"""The distribution of a budget of ranks over kernels by what their inputs vary in, as in EVA.

Each kernel gets as many ranks as it has components among those with the largest shares of the
variance of their kernel's inputs, over all kernels. Paischer et al. 2024, arXiv:2410.07170.
"""

from __future__ import annotations

from numbers import Real

import numpy as np

from keras_svd_adapters.methods.statistics import Components, Statistics


def check_rho(rho: float, start: str) -> None:
    """Raise `ValueError` for a share that no start takes, or below 1."""
    if not (isinstance(rho, Real) and 1 <= rho < float("inf")):
        raise ValueError(f"`rho` must be a number from 1. Received: rho={rho!r}")
    if rho != 1 and start != "eva":
        raise ValueError(
            "Only `start='eva'` moves ranks between kernels: leave `rho` out. "
            f"Received: rho={rho!r}, start={start!r}"
        )


def ranks_by_variance(data: list[list[Statistics]], most: list[int], budget: int) -> list[int]:
    """Return the rank of each kernel.

    Args:
        data: The statistics of each kernel, for all of its matrices, with components.
        most: The highest rank that each kernel may have.
        budget: The sum of the ranks.
    """
    shares = [
        np.mean([_shares(each.components, count) for each in found], axis=0)
        for found, count in zip(data, most, strict=True)
    ]
    owners: np.ndarray = np.repeat(np.arange(len(most)), most)
    chosen = owners[np.argsort(-np.concatenate(shares), kind="stable")[:budget]]
    return [int(count) for count in np.bincount(chosen, minlength=len(most))]


def _shares(found: Components | None, count: int) -> np.ndarray:
    """Return the share of each of the first components in the variance of the inputs."""
    assert found is not None
    shares = np.zeros(count)
    variances = found.variances[:count]
    shares[: len(variances)] = variances / (found.total or 1.0)
    return shares
