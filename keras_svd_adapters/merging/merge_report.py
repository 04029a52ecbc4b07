"""Measured effects of a merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.adapters.storages.registry import requantized_kernel
from keras_svd_adapters.kernels.quantized import float_policy, holds_integers
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.host_values import to_float_array
from keras_svd_adapters.runtime.path_groups import group_similar_paths
from keras_svd_adapters.runtime.tables import Bars, Table, TableReport

PROBES = 64


@dataclass(frozen=True)
class MergedKernel:
    """Rounding error of one merged kernel, which is rounded once.

    Args:
        path: The names of the layers from the model to this one.
        delta: Norm of the adapter's update, relative to the norm of the kernel.
        lost: Norm of the rounding error, relative to the norm of that update.
        largest: Largest change of an output by rounding, on random inputs whose
            norm is about the square root of their length.
        relative: Norm of the change of these outputs, relative to their norm.
    """

    path: str
    delta: float
    lost: float
    largest: float
    relative: float


@dataclass(frozen=True, repr=False)
class MergeReport(TableReport):
    """Measurements of `merge`. Printing it shows a table.

    Kernels whose paths differ only by numbers share a row with their largest figures.

    Args:
        kernels: One `MergedKernel` per kernel.
        probe: Largest and relative change of the model's outputs on the
            `probe` of `merge`; `None` if no probe was given.
    """

    kernels: tuple[MergedKernel, ...]
    probe: tuple[float, float] | None = None

    @property
    def relative(self) -> float:
        """The relative change of the model's outputs, or else of the worst kernel's outputs."""
        return self.probe[1] if self.probe else max(kernel.relative for kernel in self.kernels)

    def as_table(self) -> Table:
        head = ("kernel", "change by the adapter", "lost", "largest error", "relative error")
        rows = [_row(path, kernels) for path, kernels in group_similar_paths(self.kernels).items()]
        notes = f"The worst kernel's outputs changed by {self.relative:.1e} of their norm"
        if self.probe:
            notes = (
                f"The model's outputs changed by {self.probe[0]:.1e} at most, {self.probe[1]:.1e} "
                "of their norm"
            )
        return Table(head, rows, notes)

    def as_bars(self) -> Bars:
        title = "change by the adapter, relative to the kernel"
        return Bars(title, {kernel.path: kernel.delta for kernel in self.kernels})


def _row(path: str, kernels: list[MergedKernel]) -> tuple[str, ...]:
    """Return the largest figures of kernels whose paths differ only by numbers."""
    delta, lost, largest, relative = (
        max(getattr(kernel, name) for kernel in kernels)
        for name in ("delta", "lost", "largest", "relative")
    )
    return path, f"{delta:.2e}", f"{lost:.2%}", f"{largest:.1e}", f"{relative:.1e}"


def measure(path: str, K: np.ndarray, delta: np.ndarray, rounded: np.ndarray) -> MergedKernel:
    """Compare a rounded `(m, n)` kernel with `K + delta`."""
    K, delta, rounded = (np.asarray(a, "float64") for a in (K, delta, rounded))
    wanted = K + delta
    error = rounded - wanted
    x = np.random.default_rng(0).normal(size=(PROBES, len(K)))
    y, difference = x @ wanted, x @ error
    return MergedKernel(
        path,
        delta=_ratio(delta, K),
        lost=_ratio(error, delta),
        largest=float(np.abs(difference).max()),
        relative=_ratio(difference, y),
    )


def output_change(before: list[np.ndarray], after: list[np.ndarray]) -> tuple[float, float]:
    """Largest and relative difference between two lists of outputs."""
    a, b = (np.concatenate([np.ravel(y).astype("float64") for y in ys]) for ys in (before, after))
    return float(np.abs(a - b).max()), _ratio(b - a, a)


def _ratio(change: np.ndarray, whole: np.ndarray) -> float:
    size = float(np.linalg.norm(whole))
    return float(np.linalg.norm(change)) / size if size else 0.0


def _measure(site: Site, quantized: str | None) -> list[MergedKernel]:
    delta = site.layer.update(base_kernel_value(site.layer))
    rounded, dtype = _rounded(site, quantized)
    delta, rounded = (site.view.to_matrix(to_float_array(k)) for k in (delta, rounded))
    if not np.isfinite(rounded).all():
        raise ValueError(
            f"The merged kernel does not fit into {dtype}: it has NaN or infinite values. Leave "
            f"the adapter unmerged. Received: the adapter of `{site.path}`"
        )
    paths = (path for path, _ in site.matrices())
    return list(map(measure, paths, *map(site.view.split, (site.matrix(), delta, rounded))))


def _rounded(site: Site, quantized: str | None) -> tuple[Any, str]:
    """Return the merged kernel in float32, rounded to its stored dtype, and that dtype."""
    merged = site.layer.merged_kernel()
    if holds_integers(site.layer) and quantized == "requantize":
        return requantized_kernel(site.layer, merged).floats, site.dtype
    dtype = site.dtype
    if holds_integers(site.layer):
        dtype = keras.dtype_policies.get(float_policy(site.layer)).variable_dtype
    return ops.cast(ops.cast(merged, dtype), "float32"), dtype
