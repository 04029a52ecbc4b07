"""A progress bar for the decompositions."""

from __future__ import annotations

import sys

import keras


class Progress:
    """Counts kernels, in the look of Keras: a bar for a person, nothing for a pipe.

    Args:
        total: Number of kernels.
        verbose: 0 for silence, 1 for a bar, `"auto"` for a bar in a terminal
            or notebook.
    """

    def __init__(self, total: int, verbose: int | str):
        if verbose not in (0, 1, "auto"):
            raise ValueError(f"`verbose` is 0, 1 or 'auto'. Received: verbose={verbose!r}")
        shown = _somebody_looks() if verbose == "auto" else bool(verbose)
        self._bar = keras.utils.Progbar(total, unit_name="kernel") if shown else None
        self._done = 0

    def step(self) -> None:
        """Says that one more kernel is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._done)


def tell(text: str, verbose: int | str) -> None:
    """Prints a line where a bar would be shown."""
    if _somebody_looks() if verbose == "auto" else verbose:
        print(text)


def _somebody_looks() -> bool:
    return "ipykernel" in sys.modules or sys.stdout.isatty()
