"""Draws `guides/comparison.png`: accuracy and trained values, from `guides/comparison.json`."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

import comparison
from matplotlib.figure import Figure

PICTURE = Path(__file__).resolve().parent.parent / "guides" / "comparison.png"
REFERENCES = (comparison.REFERENCE, "head only")


def draw() -> Figure:
    """Returns the picture: means of three seeds and their standard errors."""
    found = comparison.load()
    names = sorted(comparison.ENTRIES, key=found.values)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    figure.patch.set_facecolor("white")
    accuracy, values = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for row, name in enumerate(names):
        color = "0.5" if name in REFERENCES else "#3949ab"
        tests = found.accuracies(name)
        error = stdev(tests) / len(tests) ** 0.5
        accuracy.errorbar(mean(tests), row, xerr=error, fmt="o", color=color, capsize=3)
        values.barh(row, found.values(name), 0.55, color=color)
        values.text(found.values(name) * 1.15, row, f"{found.values(name):,}", va="center", size=8)
    accuracy.set_yticks(range(len(names)), [name.replace("pattern=", "") for name in names])
    accuracy.set_xlabel("accuracy on 2,000 test sentences")
    accuracy.grid(axis="x", alpha=0.3)
    values.set_xscale("log")
    values.set_xlim(300, 6e6)
    values.set_xlabel("trained values")
    for axis in (accuracy, values):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    return figure


if __name__ == "__main__":
    draw().savefig(PICTURE, dpi=130)
