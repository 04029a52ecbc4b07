"""Draws the results of the learning study: test scores against trained values."""

from __future__ import annotations

from statistics import mean
from typing import Any

import learning_results as results
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 2
REFERENCES = {"head only": "x", "full fine-tuning": "s", "Keras enable_lora(8)": "D"}
COLORS = (
    "#3949ab",
    "#e53935",
    "#43a047",
    "#fb8c00",
    "#8e24aa",
    "#00acc1",
    "#6d4c41",
    "#d81b60",
    "#7cb342",
    "#1e88e5",
    "#fdd835",
)


def draw(found: results.Found) -> Figure:
    """Returns the picture: a panel for each task, a mark for each method, bars of errors."""
    runs = results.groups(found["runs"])
    tasks = list(dict.fromkeys(task for task, _ in runs))
    places = [name for _, name in runs]
    # of the methods that few of the tasks have, the table is enough
    names = [name for name in dict.fromkeys(places) if 2 * places.count(name) > len(tasks)]
    methods = [name for name in names if name not in REFERENCES]
    color = dict(zip(methods, COLORS, strict=False))
    columns = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(13, 3.6 * rows), layout="constrained")
    figure.patch.set_facecolor("white")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, task in zip(panels, tasks, strict=False):
        for name in names:
            if (task, name) in runs:
                mark(axis, name, runs[task, name], color.get(name, "0.35"))
        axis.set_title(task, fontsize=10)
    for axis in panels[len(tasks) :]:
        axis.axis("off")
    seen: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        seen |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(seen.values()), list(seen), loc="outside right upper", frameon=False, fontsize=8
    )
    return figure


def mark(axis: Axes, name: str, runs: list[results.Run], color: str) -> None:
    """Draws a method in the panel of a task."""
    scores = results.tests(runs)
    axis.errorbar(
        runs[0]["values"],
        mean(scores),
        yerr=results.standard_error(scores) if len(scores) > 1 else 0.0,
        fmt=REFERENCES.get(name, "o"),
        color=color,
        capsize=3,
        label=name.removesuffix("()").replace("pattern=", ""),
    )
    axis.set_xscale("log")
    axis.set_xlabel("trained values", fontsize=8)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
