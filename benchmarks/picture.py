"""The benchmark's ratios as bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cases import CASES


def picture(results: dict[str, Any], path: Path) -> None:
    """Bars of the ratios on the stack and on MiniLM."""
    from matplotlib.figure import Figure

    passes = results["passes"]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axis, key in zip(figure.subplots(1, 2), ("stack", "minilm"), strict=True):
        names = list(dict.fromkeys(n for found in passes.values() for n in found.get(key, {})))
        names = [name for name in names if name not in ("frozen", "PyTorch frozen")]
        height = 0.8 / len(passes)
        for i, (backend, found) in enumerate(passes.items()):
            values = [found.get(key, {}).get(name, {}).get("ratio", 0) for name in names]
            places = [j + i * height for j in range(len(names))]
            axis.barh(places, values, height, label=backend)
        axis.set_yticks([j + 0.4 - height / 2 for j in range(len(names))], names)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.invert_yaxis()
        axis.set_xlabel("time of a pass / frozen model")
        axis.set_title(CASES[key].name)
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)
