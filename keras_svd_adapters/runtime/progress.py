"""Progress bar for the decompositions, and for steps of training."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from keras_svd_adapters.runtime.processes import process_index

LINES = 10


class KernelProgress:
    """Progress display: the current kernel or step, the share of work done, and the time left.

    The display is a bar in a terminal, or in a notebook with ipywidgets.
    Otherwise, the display is some lines; in a pipe, only on request.

    Args:
        work: Cost of each kernel or step, in any unit.
        verbose: 0 for no output, 1 for output, `"auto"` for output only in a
            terminal or a notebook.
        unit: What the work consists of.
    """

    def __init__(self, work: Sequence[float], verbose: int | str, unit: str = "kernels"):
        if verbose not in (0, 1, "auto"):
            raise ValueError(f"`verbose` is 0, 1 or 'auto'. Received: verbose={verbose!r}")
        self._work, self._done, self._share = list(work), 0, 0.0
        self._unit = unit
        self._total = sum(self._work) or 1.0
        console = Console()
        looks = is_interactive(console)
        draws = looks and (not console.is_jupyter or find_spec("ipywidgets") is not None)
        verbose = verbose if process_index() == 0 else 0
        self._bar = _bar(console) if draws and verbose else None
        self._tells = not draws and (verbose == 1 or (looks and verbose == "auto"))
        self._task: Any = None

    def __enter__(self) -> KernelProgress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, done=0, count=len(self._work))
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, name: str) -> None:
        """Report that the next kernel or step is done."""
        before = self._share
        self._share += self._work[self._done] / self._total
        self._done += 1
        if self._bar is not None:
            completed = self._share * self._total
            self._bar.update(self._task, completed=completed, description=name, done=self._done)
        elif self._tells and int(self._share * LINES + 1e-9) > int(before * LINES + 1e-9):
            count = f"{self._done}/{len(self._work)} {self._unit}"
            print(f"{count}, {self._share:.0%}, {name}", flush=True)


def print_line(text: str, verbose: int | str) -> None:
    """Print a line if a bar would be shown."""
    if process_index() == 0 and (verbose == 1 or (verbose == "auto" and is_interactive(Console()))):
        print(text)


def is_interactive(console: Console) -> bool:
    """Return whether printed output goes to a terminal or a notebook."""
    return console.is_terminal or console.is_jupyter


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[done]}/{task.fields[count]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
    )
