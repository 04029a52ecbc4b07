"""Decompositions on the backend's own accelerator.

A GPU computes as the host does, in float64: the Gram matrix of the smaller side, its eigenvectors,
and the product that makes the larger factor. A TPU has no float64; it decomposes in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.kernels.svd.decomposition import (
    Decomposition,
    Triplets,
    as_wide,
    by_lapack,
    decompose,
    decomposition_of_gram,
    fix_signs,
    require_finite,
)
from keras_svd_adapters.methods.contract import SVD, Truncation
from keras_svd_adapters.runtime.warnings import warn


def accelerator() -> str | None:
    """Return `"gpu"` or `"tpu"` if the backend has one, otherwise `None`."""
    if keras.backend.backend() == "torch":  # Keras lists no devices for torch
        import torch

        return "gpu" if torch.cuda.is_available() else None
    names = {name.split(":")[0] for name in keras.distribution.list_devices()}
    return next((kind for kind in ("tpu", "gpu") if kind in names), None)


def require_accelerator() -> None:
    """Raise `ValueError` if the backend has no accelerator."""
    if accelerator() is None:
        raise ValueError(
            f"Keras sees no GPU or TPU on the {keras.backend.backend()} backend: leave "
            "`svd_device` out, or install the backend for your accelerator. "
            "Received: svd_device='accelerator'"
        )


@dataclass(frozen=True, eq=False)
class AcceleratedDecomposition(Decomposition):
    """A decomposition whose larger factor is computed on the accelerator."""

    def _larger(self, which: slice) -> np.ndarray:
        def product() -> np.ndarray:
            scaled = _tensor(self.smaller[:, which] / self.s[which])
            return _array(ops.transpose(_tensor(as_wide(self.K))) @ scaled)

        found = _or_host(product, lambda: super(AcceleratedDecomposition, self)._larger(which))
        return found.astype(self.K.dtype)


def on_accelerator(found: SVD) -> SVD:
    """Return a decomposition, such as one of the cache, that the accelerator completes."""
    if not isinstance(found, Decomposition):
        return found
    return AcceleratedDecomposition(found.K, found.smaller, found.s)


def decompose_on_accelerator(K: np.ndarray, part: Truncation | None = None) -> SVD:
    """Decompose a kernel on the backend's accelerator, or on the host if its memory runs out.

    Args:
        K: `(m, n)` array.
        part: Request for the largest triplets only; the accelerator computes all.

    Returns:
        An object with `U`, `s` and `Vt`, as from `decompose`. On a TPU, the factors are
        orthogonal to about 1e-5.
    """
    require_finite(K)
    find = _in_float32 if accelerator() == "tpu" else _in_float64
    found = _or_host(lambda: find(K), lambda: None) or decompose(K)
    return found if part is None else found.part(slice(0, part.rank))


def _in_float64(K: np.ndarray) -> SVD:
    """Decompose by the Gram matrix; if that is unsafe, the host does, by LAPACK."""
    wide = _tensor(as_wide(K))
    squares, vectors = ops.eigh(wide @ ops.transpose(wide))
    found = decomposition_of_gram(K, _array(squares), _array(vectors))
    return by_lapack(K) if found is None else on_accelerator(found)


def _in_float32(K: np.ndarray) -> SVD | None:
    found = ops.svd(ops.convert_to_tensor(K, dtype="float32"), full_matrices=False)
    arrays = [ops.convert_to_numpy(array) for array in found]
    finite = all(np.isfinite(array).all() for array in arrays)  # the routine may not converge
    return fix_signs(Triplets(*arrays)) if finite else None


def _or_host(compute: Callable[[], Any], on_host: Callable[[], Any]) -> Any:
    """Compute on the accelerator; on failure, such as little memory, warn and use the host."""
    try:
        with double_precision():
            return compute()
    except Exception as error:  # each backend and each device has errors of its own
        warn(
            "The accelerator cannot decompose a kernel, so the host does; `svd_device='cpu'` "
            f"asks the host at once. Received: {type(error).__name__}: {str(error)[:200]}"
        )
        return on_host()


def double_precision() -> AbstractContextManager[Any]:
    """Context manager: JAX computes in float64 where it is asked to, as other backends do."""
    if keras.backend.backend() != "jax":
        return nullcontext()
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64(True)


def _tensor(values: np.ndarray) -> Any:
    return ops.convert_to_tensor(values, dtype="float64")


def _array(tensor: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(tensor))
