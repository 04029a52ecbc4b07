"""Figures of numbers and labels. Matplotlib is imported only when a figure is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from keras_svd_adapters.runtime.tables import format_number

COLUMNS = 3


class SpectrumPanel(NamedTuple):
    """Numbers of one panel of `plot_spectra`.

    Args:
        spectra: The singular values of each kernel, from large to small.
        gaussian: The singular values of a random kernel, drawn as a dashed line.
        share: The share of the singular values at the vertical line, from 0 to 1.
    """

    spectra: Sequence[np.ndarray]
    gaussian: np.ndarray
    share: float


def plot_spectra(panels: Mapping[str, SpectrumPanel]) -> Any:
    """Plot a panel for each title, with a line for each spectrum, from dark to light."""
    figure, axes = _figure(len(panels))
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        _plot_panel(axis, title, panel)
    figure.supxlabel("share of the singular values, from large to small")
    figure.supylabel("singular value")
    return figure


def _plot_panel(axis: Any, title: str, panel: SpectrumPanel) -> None:
    import matplotlib

    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(panel.spectra)))
    for s, color in zip(panel.spectra, colors, strict=True):
        axis.plot(_shares(s), np.maximum(s, 1e-12), color=color, linewidth=1)
    gaussian = panel.gaussian
    axis.plot(_shares(gaussian), gaussian, color="0.35", linestyle="--", label="Gaussian")
    axis.axvline(panel.share, color="0.8", linewidth=1, zorder=0, label="90 % of the energy")
    axis.set_yscale("log")
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, frameon=False)


def _shares(s: np.ndarray) -> np.ndarray:
    return (np.arange(len(s)) + 0.5) / len(s)


def plot_bars(labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> Any:
    """Plot a panel for each series, with a bar for each label."""
    figure, axes = _figure(len(series), width=4.6, height=0.26 * len(labels) + 0.8)
    for axis, (title, values) in zip(axes, series.items(), strict=True):
        axis.set_title(title, fontsize=9)
        _plot_bars(axis, labels if axis is axes[0] else [""] * len(labels), values)
    return figure


def _plot_bars(axis: Any, names: Sequence[str], values: Sequence[float]) -> None:
    bars = axis.barh(range(len(names)), values, height=0.7)
    axis.bar_label(bars, [*map(format_number, values)], fontsize=7, padding=2)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xticks([])
    axis.margins(x=0.18)
    axis.invert_yaxis()
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def plot_moves(panels: Mapping[str, Sequence[Sequence[float]]]) -> Any:
    """Plot a panel for each title, with a line for each list of moves, one point per look."""
    figure, axes = _figure(len(panels))
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for line in lines:
            axis.plot(range(1, len(line) + 1), line, linewidth=1, marker="o", markersize=2)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set_ylim(bottom=0)
    figure.supxlabel("look", fontsize=9)
    figure.supylabel("largest move from the start", fontsize=9)
    return figure


class RateLine(NamedTuple):
    """Numbers of one line of `plot_rates`: a loss at each learning rate, and the chosen rate."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float


def plot_rates(lines: Mapping[str, RateLine]) -> Any:
    """Plot the losses and smoothed losses of each title, with a dot at its chosen rate."""
    figure, (axis,) = _figure(1, width=5.2, height=3.0)
    for title, (rates, losses, smoothed, suggestion) in lines.items():
        label = f"{title}: {suggestion:.1e}"
        (line,) = axis.plot(rates, smoothed, linewidth=1.5, label=label)
        axis.plot(rates, losses, linewidth=0.6, alpha=0.35, color=line.get_color())
        height = np.interp(np.log(suggestion), np.log(rates), smoothed)
        axis.plot([suggestion], [height], marker="o", color=line.get_color())
    bottom = min(line.smoothed.min() for line in lines.values())
    top = max(line.smoothed[0] for line in lines.values())
    margin = 0.5 * (top - bottom) or 1.0
    axis.set_ylim(bottom - margin, top + margin)
    axis.set_xscale("log")
    axis.set_xlabel("learning rate", fontsize=9)
    axis.set_ylabel("loss", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, frameon=False)
    return figure


def plot_cells(rows: Mapping[str, Sequence[tuple[str, np.ndarray]]]) -> Any:
    """Plot a row for each label, with a matrix below each of its titles.

    Black is the largest value of the row.
    """
    columns = max(map(len, rows.values()))
    size = (1.1 * columns + 1.2, 1.25 * len(rows) + 0.3)
    figure = figure_class()(figsize=size, layout="constrained")
    for row, (label, matrices) in enumerate(rows.items()):
        largest = max(cells.max() for _, cells in matrices) or 1.0
        for column, (title, cells) in enumerate(matrices):
            axis = figure.add_subplot(len(rows), columns, row * columns + column + 1)
            axis.imshow(cells / largest, cmap="Greys", vmin=0, vmax=1, interpolation="none")
            axis.set_title(title, fontsize=7, pad=2)
            axis.set_xticks([])
            axis.set_yticks([])
            if not column:
                axis.set_ylabel(label.replace("_", "\n"), fontsize=7)
    figure.supxlabel("layers, from the input on; above each, the change of the kernel", fontsize=8)
    return figure


def figure_class() -> Any:
    """Return Matplotlib's `Figure`, which a notebook displays without pyplot."""
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
    """Create a figure with this many axes in rows of three, without a window."""
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    size = (width * columns + 0.4, height * rows + 0.4)
    figure = figure_class()(figsize=size, layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    return figure, axes
