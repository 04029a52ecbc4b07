"""Decompositions on the backend's own accelerator, in float32."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.kernels.svd.decomposition import (
    Triplets,
    decompose,
    fix_signs,
    require_finite,
)
from keras_svd_adapters.methods.contract import SVD, Truncation


def has_accelerator() -> bool:
    """Return whether the backend has a GPU or TPU."""
    if keras.backend.backend() == "torch":  # Keras lists no devices for torch
        import torch

        return bool(torch.cuda.is_available())
    return any(not name.startswith("cpu") for name in keras.distribution.list_devices())


def require_accelerator() -> None:
    """Raise `ValueError` if the backend has no accelerator."""
    if not has_accelerator():
        raise ValueError(
            f"Keras sees no GPU or TPU on the {keras.backend.backend()} backend: leave "
            "`svd_device` out, or install the backend for your accelerator. "
            "Received: svd_device='accelerator'"
        )


def decompose_on_accelerator(K: np.ndarray, part: Truncation | None = None) -> SVD:
    """Decompose a kernel on the backend's accelerator; factors are orthogonal to about 1e-5.

    Args:
        K: `(m, n)` array.
        part: Request for the largest triplets only; the backend computes all.

    Returns:
        An object with `U`, `s` and `Vt`, as from `decompose`.
    """
    require_finite(K)
    U, s, Vt = ops.svd(ops.convert_to_tensor(K, dtype="float32"), full_matrices=False)
    found = fix_signs(Triplets(*(ops.convert_to_numpy(a) for a in (U, s, Vt))))
    if not all(np.isfinite(a).all() for a in (found.U, found.s, found.Vt)):
        return decompose(K, part)  # the backend's routine did not converge
    return found if part is None else found.part(slice(0, part.rank))
