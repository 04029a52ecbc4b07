"""Starts of LoRA's factors that read data, and the table of all starts."""

from __future__ import annotations

from functools import partial

import numpy as np

from keras_svd_adapters.methods.low_rank.starts import WITHOUT_DATA, Given, Start

DAMPING = 0.01  # of the mean square of an input
GAMMA = 16  # of LoRA-GA


def corda(given: Given, largest: bool) -> tuple[np.ndarray, np.ndarray]:
    """CorDA: `C K = U diag(s) Vt`, A0 = C^-1 U_r diag(s_r / c)^1/2, B0 = diag(s_r / c)^1/2 Vt_r.

    C is the second moment of the inputs, damped. Its inverse needs all of it, `8 m^2` bytes on the
    host. Yang et al. 2024, arXiv:2406.05223.
    """
    assert given.data.inputs is not None
    C = given.data.inputs.second
    C = C + DAMPING * (np.mean(np.diag(C)) or 1.0) * np.eye(len(C))
    U, s, Vt = np.linalg.svd(C @ given.K, full_matrices=False)
    part = slice(0, given.rank) if largest else slice(len(s) - given.rank, len(s))
    root = np.sqrt(s[part] / given.scale)
    return np.linalg.solve(C, U[:, part] * root), root[:, None] * Vt[part]


def eva(given: Given) -> tuple[np.ndarray, None]:
    """EVA: A holds the largest principal components of the inputs, around their mean.

    For many inputs, they come from a sketch of `8 m q` bytes, q about 512. Paischer et al. 2024,
    arXiv:2410.07170.
    """
    found = given.data.components
    assert found is not None
    if found.rows <= given.rank:
        raise ValueError(
            f"`start='eva'` needs more rows than the rank: give `calibrate` more data. Received: "
            f"{found.rows} rows, rank={given.rank}"
        )
    return found.vectors[:, : given.rank], None


def lora_ga(given: Given) -> tuple[np.ndarray, np.ndarray]:
    """LoRA-GA: `G = U diag(s) Vt`, A0 = U_r, B0 = n^1/4 / 16^1/2 times the next r of s and Vt.

    G is the gradient of the kernel. Wang et al. 2024, arXiv:2407.05000, with the scale of HF PEFT.
    """
    assert given.data.gradient is not None
    U, s, Vt = np.linalg.svd(given.data.gradient, full_matrices=False)
    r, n = given.rank, Vt.shape[1]
    return U[:, :r], n**0.25 / GAMMA**0.5 * s[r : 2 * r, None] * Vt[r : 2 * r]


STARTS = WITHOUT_DATA | {
    "corda": Start(None, partial(corda, largest=True), ("inputs",)),
    "corda_kpm": Start(None, partial(corda, largest=False), ("inputs",)),
    "eva": Start("b", eva, ("components",)),
    "lora_ga": Start(None, lora_ga, ("gradient",), share=2),
}
