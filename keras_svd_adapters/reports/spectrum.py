"""The singular values of a model's kernels, compared with those of random kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.kernels.low_rank_factors import rank_for
from keras_svd_adapters.kernels.svd.decomposition import singular_values
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.sites.selection import select_sites
from keras_svd_adapters.runtime.path_groups import by_layer_name
from keras_svd_adapters.runtime.plots import SpectrumPanel, plot_spectra
from keras_svd_adapters.runtime.progress import KernelProgress
from keras_svd_adapters.runtime.tables import Bars, Table, TableReport

ENERGY = 0.9
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class KernelSpectrum:
    """The singular values of one kernel.

    Args:
        path: The names of the layers from the model to this one.
        shape: `(m, n)` of the kernel as a matrix.
        s: The `min(m, n)` singular values, from large to small.
    """

    path: str
    shape: tuple[int, int]
    s: np.ndarray = field(repr=False)

    @property
    def gaussian(self) -> np.ndarray:
        """Singular values of a random Gaussian kernel of this shape and norm."""
        return gaussian_spectrum(*self.shape, norm=float(np.linalg.norm(self.s)))

    def quantile(self, q: float) -> float:
        """Return the value that exceeds a share `q` of the singular values."""
        return float(np.quantile(self.s, q))

    def rank(self, energy: float = ENERGY) -> int:
        """Return the number of largest values that hold this share of the sum of squares."""
        return rank_for(self.s, energy)

    def share(self, low: float, high: float) -> float:
        """Return the share of the singular values between two numbers."""
        return float(((self.s >= low) & (self.s <= high)).mean())


@dataclass(frozen=True, repr=False)
class Spectrum(TableReport):
    """The singular values of several kernels. Printing it shows a table.

    Args:
        kernels: One `KernelSpectrum` per kernel.
        interval: Two numbers; the table shows the share of values between them.
    """

    kernels: tuple[KernelSpectrum, ...]
    interval: tuple[float, float]

    @property
    def share(self) -> float:
        """The share of all singular values in the interval."""
        return _mean_share(self.kernels, self.interval)

    def as_table(self) -> Table:
        low, high = self.interval
        values = ("largest", "5 %", "median", "95 %", "smallest")
        rank = (f"rank for {ENERGY:.0%}", "Gaussian")
        head = ("kernel", "shape", *values, *rank, f"in [{low:g}, {high:g}]")
        rows = [_row(kernel, self.interval) for kernel in self.kernels]
        count = sum(len(kernel.s) for kernel in self.kernels)
        share = f"{self.share:.1%} of {count:,} singular values lie in [{low:g}, {high:g}]"
        return Table(head, rows, share)

    def as_bars(self) -> Bars:
        title = f"rank for {ENERGY:.0%} of the energy"
        return Bars(title, {kernel.path: kernel.rank() for kernel in self.kernels})

    def plot(self) -> Any:
        """Draw the spectra, a panel for each layer name; needs matplotlib.

        Returns:
            A matplotlib `Figure`.
        """
        groups = by_layer_name(self.kernels)
        return plot_spectra(dict(_panel(name, kernels) for name, kernels in groups.items()))


def spectrum(
    model: keras.layers.Layer,
    targets: Targets = None,
    exclude: Targets = None,
    interval: tuple[float, float] = (0.1, 1.1),
    verbose: int | str = "auto",
) -> Spectrum:
    """Return the singular values of a model's kernels, on which SVD methods depend.

    A kernel may need far fewer values for 90 % of its energy than a Gaussian of
    equal norm. Such a kernel has learned low-rank structure, and PiSSA starts
    from this structure. A flat spectrum gives SVF and SVFT many directions of
    similar strength.

    Args:
        model: A built Keras model.
        targets: The kernels to select, as in `enable`.
        exclude: The selected kernels to leave out.
        interval: Two numbers; the table shows the share of values between them.
        verbose: As in `enable`.

    Returns:
        A `Spectrum`; print it, or call its `plot()`.

    Raises:
        ValueError: If a pattern matches nothing, or a kernel is not finite.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> len(ksa.spectrum(model).kernels[0].s)
    6

    Reference:
        - [Transformer^2, Sun et al., 2025](https://arxiv.org/abs/2501.06252)
    """
    low, high = interval if isinstance(interval, (tuple, list)) else (interval, interval)
    if not low < high:
        raise ValueError(f"`interval` is a smaller and a larger number. Received: {interval!r}")
    sites = select_sites(model, targets, exclude)
    matrices = [(*each, (site.view.m, site.view.n)) for site in sites for each in site.matrices()]
    kernels = []
    with KernelProgress([m * n for *_, (m, n) in matrices], verbose) as progress:
        for path, matrix, shape in matrices:
            try:
                s = singular_values(matrix())
            except ValueError as error:
                raise ValueError(f"`{path}`: {error}") from None
            kernels.append(KernelSpectrum(path, shape, s))
            progress.step(path)
    return Spectrum(tuple(kernels), (low, high))


def _row(kernel: KernelSpectrum, interval: tuple[float, float]) -> tuple[str, ...]:
    numbers = [kernel.s[0], *map(kernel.quantile, QUANTILES), kernel.s[-1]]
    return (
        kernel.path,
        f"{kernel.shape[0]} x {kernel.shape[1]}",
        *(f"{number:.3g}" for number in numbers),
        f"{kernel.rank()} of {len(kernel.s)}",
        str(rank_for(kernel.gaussian, ENERGY)),
        f"{kernel.share(*interval):.1%}",
    )


def _panel(name: str, kernels: list[KernelSpectrum]) -> tuple[str, SpectrumPanel]:
    """Return the title and numbers of a panel; the middle kernel is the typical one."""
    middle = kernels[len(kernels) // 2]
    title = f"{name} ({middle.shape[0]} x {middle.shape[1]})"
    share = middle.rank() / len(middle.s)
    return title, SpectrumPanel([kernel.s for kernel in kernels], middle.gaussian, share)


def _mean_share(kernels: tuple[KernelSpectrum, ...], interval: tuple[float, float]) -> float:
    inside = sum(kernel.share(*interval) * len(kernel.s) for kernel in kernels)
    return inside / sum(len(kernel.s) for kernel in kernels)


def gaussian_spectrum(m: int, n: int, norm: float) -> np.ndarray:
    """Return the expected singular values of a Gaussian kernel, by the Marchenko-Pastur law."""
    k, ratio = min(m, n), min(m, n) / max(m, n)
    angle = np.linspace(0, np.pi, 4001)  # evenly spaced in the angle, the density has no poles
    x = 1 + ratio - 2 * np.sqrt(ratio) * np.cos(angle)
    density = np.sin(angle) ** 2 / np.maximum(x, 1e-12)
    share = np.cumsum(density) - density / 2
    squares = np.interp((np.arange(k) + 0.5) / k, share / density.sum(), x)[::-1]
    return np.sqrt(squares) * norm / np.sqrt(squares.sum())
