"""Kernel updates of an adapter, expressed in the singular vectors of the kernels."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.contract import SVD
from keras_svd_adapters.models.decompositions import Found, decompositions, jobs_for
from keras_svd_adapters.models.named_adapters import require_adapter
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.sites.selection import select_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.host_values import to_float_array
from keras_svd_adapters.runtime.path_groups import by_layer_name, group_paths
from keras_svd_adapters.runtime.plots import plot_cells
from keras_svd_adapters.runtime.tables import Bars, Table, TableReport

CELLS = 32
MOST_LAYERS = 8


@dataclass(frozen=True)
class KernelCoefficients:
    """The change of one kernel as `M` in `U (diag(s) + M) Vt`.

    Args:
        path: The names of the layers from the model to this one.
        shape: `(m, n)` of the kernel as a matrix.
        relative: Norm of the change, relative to the norm of the kernel.
        diagonal: Share of the sum of squares of M on its diagonal, which scales
            singular values. The rest mixes directions.
        top: Share of the sum of squares within the largest tenth of the singular
            vectors, of rows and columns.
        cells: M in at most 32 x 32 cells of similar size: the root mean square
            of each cell.
    """

    path: str
    shape: tuple[int, int]
    relative: float
    diagonal: float
    top: float
    cells: np.ndarray = field(repr=False)


@dataclass(frozen=True, repr=False)
class Coefficients(TableReport):
    """Changes by an adapter. Printing it shows a table.

    Kernels of one shape whose paths differ only by numbers share a row with their mean figures.

    Args:
        kernels: One `KernelCoefficients` per adapted kernel.
    """

    kernels: tuple[KernelCoefficients, ...]

    def as_table(self) -> Table:
        head = ("kernel", "shape", "change", "on the diagonal", "in the top tenth")
        groups = group_paths((kernel.path, kernel.shape) for kernel in self.kernels)
        rows = [_row(path, [self.kernels[place] for place in places]) for path, _, places in groups]
        return Table(head, rows)

    def as_bars(self) -> Bars:
        title = "change of the kernel, relative to its norm"
        return Bars(title, {kernel.path: kernel.relative for kernel in self.kernels})

    def plot(self) -> Any:
        """Draw M of each kernel: a row for each layer name, the layers from left to right.

        Large singular values are at the top and at the left. Dark cells are large
        coefficients, relative to the largest of the row. If a name has more than
        eight layers, eight of them are drawn. Needs matplotlib.

        Returns:
            A matplotlib `Figure`.
        """
        rows = {name: _some(kernels) for name, kernels in by_layer_name(self.kernels).items()}
        return plot_cells(
            {name: [(f"{k.relative:.1%}", k.cells) for k in row] for name, row in rows.items()}
        )


def coefficients(
    model: keras.layers.Layer,
    targets: Targets = None,
    exclude: Targets = None,
    cache: bool = True,
    cache_dir: Any = None,
    verbose: int | str = "auto",
) -> Coefficients:
    """Express the change by the active adapter in the singular vectors of each kernel.

    For SVFT the coefficients are the trained values themselves; for SVF, they are
    `s (z - 1)` on the diagonal. A low-rank update is transformed to the same form,
    so that methods can be compared. The report shows whether an adapter scales
    existing directions (the diagonal) or mixes them. It also shows whether the
    adapter changes the large directions or the small ones.

    Args:
        model: A model with an active adapter.
        targets: The adapted kernels to select, as in `enable`; `None` for all.
        exclude: The selected kernels to leave out.
        cache: As in `enable`.
        cache_dir: As in `enable`.
        verbose: As in `enable`.

    Returns:
        A `Coefficients`; print it, or call its `plot()`.

    Raises:
        ValueError: If there is no active adapter, a pattern matches nothing,
            or values are not finite.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.SVFT(pattern="banded", d=1))
    >>> ksa.coefficients(model).kernels[0].cells.shape
    (6, 6)

    Reference:
        - [SVFT, Lingam et al., 2024](https://arxiv.org/abs/2405.19597)
    """
    sites = _active(model, targets, exclude)
    jobs = [jobs_for(site) for site in sites]
    with closing(decompositions(sites, jobs, SVDService(cache, cache_dir), verbose)) as every:
        kernels = [
            each for found, site in zip(every, sites, strict=True) for each in _look(site, found)
        ]
    return Coefficients(tuple(kernels))


def _active(model: keras.layers.Layer, targets: Targets, exclude: Targets) -> list[Site]:
    """Return the selected kernels whose adapter is active."""
    sites = [site for site in require_adapter(model) if site.layer.active_adapters]
    if targets is not None or exclude is not None:
        meant = {site.key for site in select_sites(model, targets, exclude)}
        sites = [site for site in sites if site.key in meant]
    if not sites:
        raise ValueError(
            "None of these layers has an active adapter: choose others, or `set_adapter` first. "
            f"Received: targets={targets!r}, exclude={exclude!r}"
        )
    return sites


def _look(site: Site, found: Found) -> list[KernelCoefficients]:
    change = site.view.to_matrix(to_float_array(site.layer.update(base_kernel_value(site.layer))))
    if not np.isfinite(change).all():
        raise ValueError(f"`{site.path}`: its adapter is not finite. Received: {_methods(site)}")
    parts = zip(site.matrices(), found, site.view.split(change), strict=True)
    return [_coefficients(path, K, svd, part) for (path, _), (K, svd), part in parts]


def _methods(site: Site) -> str:
    return ", ".join(str(adapter.method) for adapter in site.layer.computing()[0].values())


def _coefficients(
    path: str, K: np.ndarray, svd: SVD | None, change: np.ndarray
) -> KernelCoefficients:
    assert svd is not None
    M = svd.U.T @ change @ svd.Vt.T
    squares = M.astype("float64") ** 2
    whole = squares.sum() or 1.0
    tenth = -(-len(M) // 10)
    norm = float(np.linalg.norm(K)) or 1.0
    return KernelCoefficients(
        path,
        K.shape,
        relative=float(np.linalg.norm(change)) / norm,
        diagonal=float(np.trace(squares) / whole),
        top=float(squares[:tenth, :tenth].sum() / whole),
        cells=np.sqrt(_cells(squares)),
    )


def _cells(squares: np.ndarray) -> np.ndarray:
    """Return the means over a grid of cells."""
    k = len(squares)
    starts: np.ndarray = np.arange(min(k, CELLS)) * k // min(k, CELLS)
    sizes = np.diff([*starts, k])
    sums = np.add.reduceat(np.add.reduceat(squares, starts, axis=0), starts, axis=1)
    return sums / np.outer(sizes, sizes)


def _some(kernels: list[KernelCoefficients]) -> list[KernelCoefficients]:
    """Return at most eight of these kernels, evenly spread."""
    count = min(len(kernels), MOST_LAYERS)
    return [kernels[i] for i in np.linspace(0, len(kernels) - 1, count).round().astype(int)]


def _row(path: str, kernels: list[KernelCoefficients]) -> tuple[str, ...]:
    """Return the mean figures of kernels whose paths differ only by numbers."""
    relative, diagonal, top = (
        float(np.mean([getattr(kernel, name) for kernel in kernels]))
        for name in ("relative", "diagonal", "top")
    )
    m, n = kernels[0].shape
    return path, f"{m} x {n}", f"{relative:.2e}", f"{diagonal:.0%}", f"{top:.0%}"
