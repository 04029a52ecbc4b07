"""Results of the learning study: which run is next, and the table of scores."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

MOST = 7  # rates of a grid
RATES = tuple(
    round(digit * 10.0**power, 8) for power in range(-6, 1) for digit in (1, 3)
)  # a factor of about 3 apart

Run = dict[str, Any]


def next_run(
    done: list[Run], middle: float, seeds: tuple[int, ...], quick: bool, fixed: bool
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


def best_rate(runs: list[Run]) -> float:
    """Returns the rate with the best validation score of the first seed."""
    first = [run for run in runs if run["seed"] == 0]
    return float(max(first, key=lambda run: _finite(run["validation"]))["rate"])


def page(runs: list[Run], tasks: Mapping[str, Any]) -> str:
    """Returns the page of results in Markdown."""
    listed = "\n".join(
        f"- `{name}`: {task.what}; {task.steps} steps of {task.batch}; {task.score}."
        for name, task in tasks.items()
    )
    return f"""# What the methods learn

`make learning` trains each method on each task at several learning rates, and writes this page.
All methods have the same steps, batches, schedule and rate of the head. Validation data choose the
learning rate, and the test score belongs to it. After the sign ± is the standard error of two
seeds. A higher score is better. The time of a step counts what else the machine did. A run that
stopped goes on where it was, so this page may lack tasks and methods.

{listed}

{table(runs)}
"""


def line(run: Run) -> str:
    """Returns a run in one line."""
    return (
        f"{run['task']}  {run['name']:30}  {run['rate']:g}  seed {run['seed']}  "
        f"{run['validation']:.4f}  {run['test']:.4f}  {1000 * run['step']:.0f} ms"
    )


def table(runs: list[Run]) -> str:
    """Returns a table in Markdown: for each task and method the best rate and its test score."""
    lines = [
        "| task | method | trained values | rate | test score | validation by rate | ms a step |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run["task"], run["name"]), []).append(run)
    for (task, name), found in groups.items():
        rate = best_rate(found)
        tests = [run["test"] for run in found if run["rate"] == rate]
        error = f" ± {(max(tests) - min(tests)) / 2:.3f}" if len(tests) == 2 else ""
        grid = sorted((run["rate"], run["validation"]) for run in found if run["seed"] == 0)
        shown = ", ".join(f"{r:g}: {score:.3f}" for r, score in grid)
        step = min(run["step"] for run in found)
        lines.append(
            f"| {task} | {name} | {found[0]['values']:,} | {rate:g} | {mean(tests):.3f}{error} | "
            f"{shown} | {1000 * step:.0f} |"
        )
    return "\n".join(lines)
