"""Results of the learning study: which run is next, and the table of scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

MOST = 7  # rates of a grid
RATES = tuple(
    round(digit * 10.0**power, 8) for power in range(-6, 1) for digit in (1, 3)
)  # a factor of about 3 apart
KINDS = ("runs", "costs", "finder")
HEADS = (
    "task",
    "method",
    "trained values",
    "best rate",
    "test score",
    "validation by rate",
    "finder",
    "ms a step",
    "peak MB",
)
START, END = "<!-- start of the table -->\n", "<!-- end of the table -->\n"

Run = dict[str, Any]
Found = dict[str, list[Run]]


def load(file: Path) -> Found:
    """Returns what is stored in a file: a list for each kind of record."""
    stored = json.loads(file.read_text()) if file.exists() else {}
    return {kind: stored.get(kind, []) for kind in KINDS}


def of(records: list[Run], task: str, name: str) -> list[Run]:
    """Returns the records of a method on a task."""
    return [record for record in records if (record["task"], record["name"]) == (task, name)]


def groups(runs: list[Run]) -> dict[tuple[str, str], list[Run]]:
    """Returns the runs of each task and method, task by task, in the order of the first ones."""
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    found: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: tasks.index(run["task"])):
        found.setdefault((run["task"], run["name"]), []).append(run)
    return found


def next_run(
    done: list[Run], middle: float, seeds: Sequence[int], quick: bool, fixed: bool
) -> tuple[float, int] | None:
    """Returns the rate and seed that a method lacks, or `None`.

    The grid starts with three rates. If its best is at an end, a further rate comes there. The
    other seeds run at the best rate.

    Args:
        done: The runs of this method on this task.
        middle: The rate in the middle of the grid.
        seeds: The seeds. The first one chooses the rate.
        quick: Whether the grid stays at three rates and one seed.
        fixed: Whether the method has one rate, as the head has.
    """
    found = {run["rate"]: run["validation"] for run in done if run["seed"] == seeds[0]}
    place = RATES.index(middle)
    grid = [middle] if fixed else [middle, RATES[place - 1], RATES[place + 1]]
    for rate in grid:
        if rate not in found:
            return rate, seeds[0]
    if quick:
        return None
    best = max(found, key=lambda rate: _finite(found[rate]))
    if not fixed and len(found) < MOST:
        for further in (RATES.index(best) - 1, RATES.index(best) + 1):
            if 0 <= further < len(RATES) and RATES[further] not in found:
                return RATES[further], seeds[0]
    ran = {(run["rate"], run["seed"]) for run in done}
    return next(((best, seed) for seed in seeds if (best, seed) not in ran), None)


def _finite(score: float) -> float:
    """Returns a score, the worst one for a run that diverged."""
    return score if score == score else float("-inf")


def by_rate(runs: list[Run]) -> dict[float, float]:
    """Returns the validation score of each rate with the first seed, by rising rate."""
    return dict(sorted((run["rate"], run["validation"]) for run in runs if run["seed"] == 0))


def best_rate(runs: list[Run]) -> float:
    """Returns the rate with the best validation score of the first seed."""
    found = by_rate(runs)
    return max(found, key=lambda rate: _finite(found[rate]))


def tests(runs: list[Run]) -> list[float]:
    """Returns the test scores at the best rate, one for each seed."""
    rate = best_rate(runs)
    return [run["test"] for run in runs if run["rate"] == rate]


def standard_error(scores: list[float]) -> float:
    """Returns the standard error of a mean over seeds; NaN of one seed."""
    return stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")


def line(record: Run) -> str:
    """Returns a record in one line."""
    return "  ".join(
        f"{value:.4g}" if isinstance(value, float) else str(value) for value in record.values()
    )


def table(found: Found) -> str:
    """Returns a table in Markdown: for each task and method the best rate and its test score."""
    rows = [" | ".join(HEADS), " | ".join(["---"] * len(HEADS))]
    for (task, name), runs in groups(found["runs"]).items():
        scores, error = tests(runs), standard_error(tests(runs))
        grid = by_rate(runs)
        suggestion = [f"{each['suggestion']:.1g}" for each in of(found["finder"], task, name)]
        cost = of(found["costs"], task, name)
        cells = (
            task,
            f"`{name}`" if "(" in name else name,
            f"{runs[0]['values']:,}",
            f"{best_rate(runs):g}",
            f"{mean(scores):.3f}" + (f" ± {error:.3f}" if error == error else ""),
            ", ".join(f"{rate:g}: {score:.3f}" for rate, score in grid.items()),
            *(suggestion or [""]),
            f"{1000 * cost[0]['step']:.0f}" if cost else "",
            f"{cost[0]['memory'] / 1e6:,.0f}" if cost and cost[0]["memory"] else "",
        )
        rows.append(" | ".join(cells))
    return "".join(f"| {row} |\n" for row in rows).replace("|  |", "| |")


def with_table(page: str, table: str) -> str:
    """Returns a page of the guide with a new table between its two marks."""
    before, rest = page.split(START)
    return before + START + table + END + rest.split(END)[1]
