"""Factors beside a quantized kernel, and the weights of its error from data."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

from keras_svd_adapters.adapters.storages.storage import Rounded
from keras_svd_adapters.kernels.error_weights import SOURCES, ErrorWeights
from keras_svd_adapters.kernels.quantization_error import Compensated, fit_residual
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.models.observation.statistics import statistics_of
from keras_svd_adapters.models.quantization.storage_choice import StoredAs
from keras_svd_adapters.models.quantization_report import CompensatedKernel
from keras_svd_adapters.models.sites.site import Site


class Fitted(NamedTuple):
    """How a kernel is stored, and the factors beside it.

    Args:
        stored_as: The storage.
        storage: Its name in the report.
        bytes: The size of what is stored.
        factors: The factors.
    """

    stored_as: StoredAs
    storage: str
    bytes: int
    factors: Compensated

    def as_row(self, site: Site) -> CompensatedKernel:
        """Return what the report says of the kernel."""
        size = self.factors.size or 1.0
        alone, error = self.factors.alone / size, self.factors.error / size
        bits = 8 * self.bytes / (site.view.m * site.view.n)
        return CompensatedKernel(site.path, alone, error, self.storage, bits)


def fit_factors(
    site: Site,
    stored_as: StoredAs,
    method: LoRA,
    start: str,
    iterations: int,
    weights: ErrorWeights,
) -> Fitted:
    """Fit the factors of a method beside a kernel that is stored in some way."""
    rounded: list[Rounded] = []

    def round_off(matrix: np.ndarray) -> np.ndarray:
        rounded[:] = [stored_as.round(site, matrix)]
        return site.view.to_matrix(rounded[0].floats)

    how = (method.rank, method.scale, start, iterations, weights)
    factors = fit_residual(site.matrix(), round_off, *how)
    return Fitted(stored_as, stored_as.name_of(rounded[0]), rounded[0].bytes, factors)


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
