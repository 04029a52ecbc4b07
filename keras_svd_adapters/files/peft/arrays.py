"""Convert the arrays of one kernel's adapter to PEFT and back: PEFT stores the transposes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.files.peft.turns import TRANSPOSED, Turn
from keras_svd_adapters.files.peft.twins import TWINS, twin_of, with_bias
from keras_svd_adapters.kernels.low_rank_factors import relative_error, truncate
from keras_svd_adapters.merging.kernel_updates import exact_factors, kernel_updates
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.statistics import Statistics
from keras_svd_adapters.models.sites.site import Site

PREFIX = "base_model.model."
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
}
COMMON = {f"base_model.{theirs}": theirs for twin in TWINS.values() for theirs in twin.common}
ARRAYS = (*OURS, *(theirs for twin in TWINS.values() for theirs in twin.arrays))


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
    method, twin = adapter.method, twin_of(adapter.method)
    values = vars(adapter.numpy_values()[0])
    if twin is not None:
        _check_drawn(site, method, values)
        values = twin.equal_arrays(values)
        method = twin.resolve(method, site.view.m, site.view.n)
        theirs = with_bias(method, site.view.m, site.view.n, site.layer)
        if theirs != method and theirs.adapts_bias(site.view.m, site.view.n):
            raise ValueError(
                "PEFT also changes the bias of this layer: train the adapter as "
                f"`{theirs}`, or `merge` it. Received: {adapter.method} on `{site.path}`"
            )
    return PeftKernel(method, _theirs(site, method, values))


def _check_drawn(site: Site, method: Method, values: dict[str, np.ndarray]) -> None:
    """Raise if PEFT, which draws frozen arrays again from the seed, would draw others."""
    arrays = site.arrays(method).items()
    drawn = [k for k, a in arrays if a.saved and not a.trainable and a.start is None]
    if not drawn:
        return
    nothing, rng = np.broadcast_to(np.float32(0), site.view.matrix_shape), np.random.default_rng()
    found = method.first_values(nothing, site.form(method), rng, None, Statistics())
    for name in drawn:
        if not np.array_equal(values[name], found[name]):
            raise ValueError(
                f"PEFT would draw other `{name}` from the seed: this adapter is of a version of "
                "this package that drew them otherwise. Give `rank=` or `energy=` for the nearest "
                f"LoRA, or `merge` it. Received: {method} on `{site.path}`"
            )


def lora_entry(site: Site, name: str, rank: int | None, energy: float | None) -> PeftKernel:
    """Return the entry of a LoRA that computes the same, or of the nearest LoRA."""
    (change,) = kernel_updates(site, name)
    if rank is None and energy is None:
        ((A, B),) = exact_factors(site, name)
    else:
        A, B = truncate(change, rank, energy)
    A, B = A.astype("float32"), B.astype("float32")
    error = relative_error(A.astype("float64") @ B, change)
    lora = LoRA(rank=A.shape[1])
    return PeftKernel(lora, _theirs(site, lora, {"lora_a": A, "lora_b": B}), error)


def empty_entry(site: Site) -> PeftKernel:
    """Return a LoRA of zeros, which changes nothing: with it, PEFT loads biases alone."""
    lora = LoRA(rank=1)
    zeros = {"lora_a": np.zeros((site.view.m, 1)), "lora_b": np.zeros((1, site.view.n))}
    return PeftKernel(lora, _theirs(site, lora, zeros))


def without_empty_loras(
    tensors: dict[str, dict[str, np.ndarray]],
) -> dict[str, dict[str, np.ndarray]]:
    """Return the arrays by module without `empty_entry`, which could not train either."""
    return {
        module: arrays
        for module, arrays in tensors.items()
        if arrays.keys() != {LORA_A, LORA_B} or any(array.any() for array in arrays.values())
    }


def _theirs(site: Site, method: Method, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays of a kernel's adapter as PEFT names and stores them, without others."""
    return {
        theirs: _turn(method, ours).to_peft(method, values[ours])
        for theirs, ours in _names(site, method).items()
        if ours in values
    }


def _names(site: Site, method: Method) -> Mapping[str, str]:
    """Return the array here of each array in PEFT."""
    if (twin := twin_of(method)) is not None:
        return twin.arrays
    left_out = (LORA_A, LORA_B) if site.host.is_lookup else (EMBEDDING_A, EMBEDDING_B)
    return {theirs: ours for theirs, ours in OURS.items() if theirs not in left_out}


def _turn(method: Method, ours: str) -> Turn:
    twin = twin_of(method)
    return TRANSPOSED if twin is None else twin.turns.get(ours, twin.turn)


def values_of(site: Site, method: Method, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of a kernel's adapter, from the arrays in PEFT."""
    names = _names(site, method)
    return {
        names[theirs]: _turn(method, names[theirs]).from_peft(method, value)
        for theirs, value in tensors.items()
    }


def arrays_of(site: Site, method: Method) -> dict[str, tuple[int, ...]]:
    """Return the arrays in PEFT of a method for a kernel, with their shapes."""
    trained = {k: np.zeros(a.shape) for k, a in site.arrays(method).items() if a.trainable}
    return {theirs: value.shape for theirs, value in _theirs(site, method, trained).items()}
