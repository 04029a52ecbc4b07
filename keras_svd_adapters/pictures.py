"""Pictures, by matplotlib, which is asked for when one is drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from keras_svd_adapters.health import ArrayHealth
    from keras_svd_adapters.spectrum import KernelSpectrum, Spectrum

COLUMNS = 3


def draw_spectrum(spectrum: Spectrum) -> Any:
    """A panel for each layer name: a line per kernel, dark to light with the depth."""
    panels: dict[str, list[KernelSpectrum]] = {}
    for kernel in spectrum.kernels:
        panels.setdefault(kernel.path.rsplit("/", 1)[-1], []).append(kernel)
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


def draw_health(history: list[tuple[ArrayHealth, ...]]) -> Any:
    """A panel for each array name: a line per kernel, how far it moved at each look."""
    panels: dict[str, list[list[float]]] = {}
    for each in zip(*history, strict=True):
        panels.setdefault(each[0].name, []).append([look.ratio for look in each])
    figure, axes = _figure(len(panels))
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        for line in lines:
            axis.plot(range(1, len(line) + 1), line, linewidth=1, marker="o", markersize=2)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set_ylim(bottom=0)
    figure.supxlabel("look")
    figure.supylabel("norm of the move / norm of the values")
    return figure


def _figure(count: int) -> tuple[Any, list[Any]]:
    """A figure with this many axes in rows of three; not tied to a window."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            'Pictures need matplotlib: `pip install "keras-svd-adapters[plots]"`. '
            "Received: plot() without matplotlib"
        ) from None
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(3.2 * columns + 0.4, 2.4 * rows + 0.4), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    return figure, axes
