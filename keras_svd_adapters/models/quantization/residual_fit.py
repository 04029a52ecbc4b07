"""Factors beside a quantized kernel, and the weights of its error from data."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

from keras_svd_adapters.adapters.requantization import Rounded
from keras_svd_adapters.kernels.error_weights import SOURCES, ErrorWeights
from keras_svd_adapters.kernels.quantization_error import Compensated, fit_residual
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.models.observation.statistics import statistics_of
from keras_svd_adapters.models.quantization.report import CompensatedKernel
from keras_svd_adapters.models.quantization.storage_choice import Storage, rounded_kernel
from keras_svd_adapters.models.sites.site import Site


class Fitted(NamedTuple):
    """How a kernel is stored, its size in bytes, and the factors beside it."""

    storage: Storage
    group: int
    bytes: int
    factors: Compensated

    def as_row(self, site: Site) -> CompensatedKernel:
        """Return what the report says of the kernel."""
        size = self.factors.size or 1.0
        alone, error = self.factors.alone / size, self.factors.error / size
        bits = 8 * self.bytes / (site.view.m * site.view.n)
        name = self.storage.mode if self.group < 0 else f"{self.storage.mode}/{self.group}"
        return CompensatedKernel(site.path, alone, error, name, bits)


def fit_factors(
    site: Site,
    storage: Storage,
    method: LoRA,
    start: str,
    iterations: int,
    weights: ErrorWeights,
) -> Fitted:
    """Fit the factors of a method beside a kernel that is stored in some way."""
    rounded: list[Rounded] = []

    def round_off(matrix: np.ndarray) -> np.ndarray:
        rounded[:] = [rounded_kernel(site, storage, matrix)]
        return site.view.to_matrix(rounded[0].floats)

    how = (method.rank, method.scale, start, iterations, weights)
    factors = fit_residual(site.matrix(), round_off, *how)
    return Fitted(storage, rounded[0].group, rounded[0].bytes, factors)


def check_error_weights(error_weights: str | None, calibrate: Any) -> None:
    """Raise `ValueError` if weights and data do not suit each other."""
    received = f"Received: error_weights={error_weights!r}"
    if error_weights is not None and error_weights not in SOURCES:
        raise ValueError(f"`error_weights` is `None` or one of {tuple(SOURCES)}. {received}")
    if error_weights is not None and calibrate is None:
        example = "(x, y)" if error_weights == "fisher" else "x"
        raise ValueError(
            "The weights of the error come from data: pass some hundred samples, as in "
            f"`calibrate={example}`. {received}, calibrate=None"
        )
    if error_weights is None and calibrate is not None:
        raise ValueError(
            "Data has no effect without weights of the error: type `error_weights='inputs'`, or "
            f"leave `calibrate` out. {received}"
        )


def weights_of(
    model: keras.Model,
    sites: list[Site],
    error_weights: str | None,
    calibrate: Any,
    verbose: int | str,
) -> dict[str, ErrorWeights]:
    """Return the weights of the errors of kernels by their keys, from a pass of the float model."""
    if error_weights is None:
        return {}
    source = SOURCES[error_weights]
    observed = statistics_of(model, {source.need: sites}, calibrate, verbose, "calibrate")
    return {site.key: source.weights(observed.pop(site.key)[0]) for site in sites}
