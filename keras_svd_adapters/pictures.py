"""Pictures, by matplotlib, which is asked for when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_svd_adapters.tree import alike

if TYPE_CHECKING:
    from keras_svd_adapters.coefficients import Coefficients, KernelCoefficients
    from keras_svd_adapters.health import ArrayHealth
    from keras_svd_adapters.plan import Plan
    from keras_svd_adapters.spectrum import KernelSpectrum, Spectrum

COLUMNS = 3
MOST_LAYERS = 8


def draw_spectrum(spectrum: Spectrum) -> Any:
    """A panel for each layer name: a line per kernel, dark to light with the depth."""
    panels = _by_name(spectrum.kernels)
    figure, axes = _figure(len(panels))
    for axis, (name, kernels) in zip(axes, panels.items(), strict=True):
        _draw_panel(axis, name, kernels)
    figure.supxlabel("share of the singular values, from large to small")
    figure.supylabel("singular value")
    return figure


def _draw_panel(axis: Any, name: str, kernels: list[KernelSpectrum]) -> None:
    import matplotlib

    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(kernels)))
    for kernel, color in zip(kernels, colors, strict=True):
        axis.plot(_shares(kernel.s), np.maximum(kernel.s, 1e-12), color=color, linewidth=1)
    middle = kernels[len(kernels) // 2]
    axis.plot(_shares(middle.s), middle.gaussian, color="0.35", linestyle="--", label="Gaussian")
    share = middle.rank() / len(middle.s)
    axis.axvline(share, color="0.8", linewidth=1, zorder=0, label="90 % of the energy")
    axis.set_yscale("log")
    axis.set_title(f"{name} ({middle.shape[0]} x {middle.shape[1]})", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, frameon=False)


def _shares(s: np.ndarray) -> np.ndarray:
    return (np.arange(len(s)) + 0.5) / len(s)


def draw_plan(plan: Plan) -> Any:
    """For kernels alike, a bar of what would train and one of the frozen factors."""
    groups = alike(site.path for site in plan.sites)
    sites = [[plan.sites[place] for place in places] for places in groups.values()]
    figure, axes = _figure(2, width=4.6, height=0.26 * len(groups) + 0.8)
    figures: dict[str, list[float]] = {
        "values that would train": [sum(s.trainable_parameters for s in each) for each in sites],
        "frozen factors, MB": [sum(s.frozen_bytes for s in each) / 1e6 for each in sites],
    }
    for axis, (title, values) in zip(axes, figures.items(), strict=True):
        axis.set_title(title, fontsize=9)
        _draw_bars(axis, list(groups) if axis is axes[0] else [""] * len(groups), values)
    return figure


def _draw_bars(axis: Any, names: list[str], values: list[float]) -> None:
    bars = axis.barh(range(len(names)), values, height=0.7)
    labels = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
    axis.bar_label(bars, labels, fontsize=7, padding=2)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xticks([])
    axis.margins(x=0.18)
    axis.invert_yaxis()
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def draw_health(history: list[tuple[ArrayHealth, ...]]) -> Any:
    """A panel for each array name: a line per kernel, how far it moved at each look."""
    panels: dict[str, list[list[float]]] = {}
    for each in zip(*history, strict=True):
        panels.setdefault(each[0].name, []).append([look.moved for look in each])
    figure, axes = _figure(len(panels))
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        for line in lines:
            axis.plot(range(1, len(line) + 1), line, linewidth=1, marker="o", markersize=2)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set_ylim(bottom=0)
    figure.supxlabel("look", fontsize=9)
    figure.supylabel("largest move from the start", fontsize=9)
    return figure


def draw_coefficients(coefficients: Coefficients) -> Any:
    """A row for each layer name, and in it the coefficients of some layers."""
    rows = {name: _some(kernels) for name, kernels in _by_name(coefficients.kernels).items()}
    columns = max(map(len, rows.values()))
    size = (1.1 * columns + 1.2, 1.25 * len(rows) + 0.3)
    figure = figure_class()(figsize=size, layout="constrained")
    for row, (name, kernels) in enumerate(rows.items()):
        largest = max(kernel.cells.max() for kernel in kernels) or 1.0
        for column, kernel in enumerate(kernels):
            axis = figure.add_subplot(len(rows), columns, row * columns + column + 1)
            axis.imshow(kernel.cells / largest, cmap="Greys", vmin=0, vmax=1, interpolation="none")
            axis.set_title(f"{kernel.relative:.1%}", fontsize=7, pad=2)
            axis.set_xticks([])
            axis.set_yticks([])
            if not column:
                axis.set_ylabel(name.replace("_", "\n"), fontsize=7)
    figure.supxlabel("layers, from the input on; above each, the change of the kernel", fontsize=8)
    return figure


def _by_name(kernels: Iterable[Any]) -> dict[str, list[Any]]:
    """What is told of kernels, by the names of their layers."""
    found: dict[str, list[Any]] = {}
    for kernel in kernels:
        found.setdefault(kernel.path.rsplit("/", 1)[-1], []).append(kernel)
    return found


def _some(kernels: list[KernelCoefficients]) -> list[KernelCoefficients]:
    """At most eight, spread evenly."""
    places = np.linspace(0, len(kernels) - 1, min(len(kernels), MOST_LAYERS)).round().astype(int)
    return [kernels[place] for place in places]


def figure_class() -> Any:
    """Matplotlib's `Figure`, which also shows itself in a notebook without pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            'Pictures need matplotlib: `pip install "keras-svd-adapters[plots]"`. '
            "Received: plot() without matplotlib"
        ) from None

    class Picture(Figure):  # type: ignore[misc]
        def _repr_png_(self) -> bytes:
            file = BytesIO()
            self.savefig(file, format="png", dpi=100)
            return file.getvalue()

    return Picture


def _figure(count: int, width: float = 3.2, height: float = 2.4) -> tuple[Any, list[Any]]:
    """A figure with this many axes in rows of three; not tied to a window."""
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    size = (width * columns + 0.4, height * rows + 0.4)
    figure = figure_class()(figsize=size, layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    return figure, axes
