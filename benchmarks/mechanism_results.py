"""Tables of what schedules and rules do, and of what they cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KINDS = ("learning", "costs")
START, END = "<!-- start of the results -->\n", "<!-- end of the results -->\n"

Found = dict[str, list[dict[str, Any]]]


def load(file: Path) -> Found:
    """Returns what is stored in a file: a list for each kind of record."""
    stored = json.loads(file.read_text()) if file.exists() else {}
    return {kind: stored.get(kind, []) for kind in KINDS}


def tables(found: Found) -> str:
    """Returns both tables in Markdown."""
    learning = [
        (
            run["name"],
            f"{run['rate']:g}",
            f"{run['loss']:.3f}",
            f"{run['validation']:.3f}",
            f"{run['test']:.3f}",
            str(run["rank"]),
        )
        for run in found["learning"]
    ]
    heads = ("training", "rate", "validation loss", "validation accuracy", "test accuracy", "rank")
    backends = list(dict.fromkeys(cost["backend"] for cost in found["costs"]))
    ratios = {(cost["name"], cost["backend"]): cost["ratio"] for cost in found["costs"]}
    costs = [
        (name, *(f"{ratios[name, backend]:.3f}" for backend in backends))
        for name in dict.fromkeys(name for name, _ in ratios)
    ]
    return table(heads, learning) + "\n" + table(("step with", *backends), costs)


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Returns one table."""
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_tables(page: str, found: Found) -> str:
    """Returns a page of the guide with new tables between its two marks."""
    before, rest = page.split(START)
    return before + START + "\n" + tables(found) + "\n" + END + rest.split(END)[1]
