"""Convert the arrays of one kernel's adapter to PEFT and back: PEFT stores the transposes."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.files.peft.twins import TWINS
from keras_svd_adapters.kernels.low_rank_factors import relative_error, truncate
from keras_svd_adapters.merging.kernel_updates import exact_factors, kernel_updates
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.site import Site

PREFIX = "base_model.model."
VERA_A, VERA_B = "base_model.vera_A", "base_model.vera_B"
LORA_A, LORA_B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
LAMBDA_D, LAMBDA_B = "vera_lambda_d", "vera_lambda_b"
OURS = {
    LORA_A: "lora_a",
    LORA_B: "lora_b",
    EMBEDDING_A: "lora_a",
    EMBEDDING_B: "lora_b",
    MAGNITUDE: "magnitude",
    LAMBDA_D: "lambda_d",
    LAMBDA_B: "lambda_b",
    **{theirs: ours for twin in TWINS.values() for theirs, ours in twin.arrays.items()},
}
ARRAYS = tuple(OURS)
STRAIGHT = {a for twin in TWINS.values() if not twin.transposed for a in twin.arrays.values()}


@dataclass(frozen=True)
class PeftKernel:
    """Contents of a PEFT directory for one kernel.

    Args:
        method: A method that PEFT has.
        tensors: The arrays of the method, under their names in PEFT.
        error: Approximation error of the kernel update, relative to the adapter's update.
    """

    method: Method
    tensors: dict[str, np.ndarray]
    error: float = 0.0


def native_entry(site: Site, name: str) -> PeftKernel:
    """Return the entry of a method that PEFT has as well."""
    adapter = adapters_of(site.layer)[name]
    return PeftKernel(adapter.method, _theirs(site, adapter.numpy_values()[0]))


def lora_entry(site: Site, name: str, rank: int | None, energy: float | None) -> PeftKernel:
    """Return the entry of a LoRA that computes the same, or of the nearest LoRA."""
    (change,) = kernel_updates(site, name)
    if rank is None and energy is None:
        ((A, B),) = exact_factors(site, name)
    else:
        A, B = truncate(change, rank, energy)
    A, B = A.astype("float32"), B.astype("float32")
    error = relative_error(A.astype("float64") @ B, change)
    tensors = _theirs(site, SimpleNamespace(lora_a=A, lora_b=B))
    return PeftKernel(LoRA(rank=A.shape[1]), tensors, error)


def _theirs(site: Site, values: SimpleNamespace) -> dict[str, np.ndarray]:
    return _named(site, {ours: _turned(ours, value) for ours, value in vars(values).items()})


def _turned(ours: str, value: np.ndarray) -> np.ndarray:
    """Return an array of this package as PEFT stores it, and the other way round."""
    return value if ours in STRAIGHT else value.T


def _named(site: Site, arrays: dict[str, Any]) -> dict[str, Any]:
    """Rename entries from Keras arrays to PEFT names; drop arrays that PEFT lacks."""
    left_out = (LORA_A, LORA_B) if site.host.is_lookup else (EMBEDDING_A, EMBEDDING_B)
    names = {ours: theirs for theirs, ours in OURS.items() if theirs not in left_out}
    return {names[ours]: value for ours, value in arrays.items() if ours in names}


def values_of(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of a kernel's adapter, from the arrays in PEFT."""
    return {OURS[theirs]: _turned(OURS[theirs], value) for theirs, value in tensors.items()}


def arrays_of(site: Site, method: Method) -> dict[str, tuple[int, ...]]:
    """Return the arrays in PEFT of a method for a kernel, with their shapes."""
    arrays = site.arrays(method)
    shapes = {
        ours: array.shape if ours in STRAIGHT else array.shape[::-1]
        for ours, array in arrays.items()
        if array.trainable
    }
    return _named(site, shapes)
