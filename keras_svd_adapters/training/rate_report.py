"""The result of a search for a learning rate: curves of the loss, and the rates they suggest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.runtime.plots import RateLine, plot_rates
from keras_svd_adapters.runtime.tables import Table, TableReport

ROWS = 12


@dataclass(frozen=True)
class RateCurve:
    """The loss of one method while the learning rate rises.

    Args:
        rates: The learning rates.
        losses: The loss of each step, minus the difficulty of its batch: minus the loss that the
            untrained model has on this batch, plus the mean of these.
        smoothed: The smoothed losses.
        suggestion: The learning rate to train with.
    """

    rates: np.ndarray = field(repr=False)
    losses: np.ndarray = field(repr=False)
    smoothed: np.ndarray = field(repr=False)
    suggestion: float

    @property
    def lowest(self) -> int:
        """Number of the step with the lowest smoothed loss."""
        return int(np.argmin(self.smoothed))

    @property
    def fall(self) -> float:
        """How far the smoothed loss falls from its start."""
        return float(self.smoothed[0] - self.smoothed[self.lowest])

    @property
    def still_falls(self) -> bool:
        """Whether the loss is lowest at the highest rate, so that higher rates may be better."""
        return self.lowest == len(self.rates) - 1


@dataclass(frozen=True, repr=False)
class LearningRates(TableReport):
    """Learning rates for a model, the best method first. Printing it shows a table.

    Args:
        curves: A `RateCurve` for each method; for the model itself, the key is `None`. The method
            with the lowest smoothed loss is first.
        refused: For each method without a rate, the reason.
    """

    curves: dict[Method | None, RateCurve]
    refused: dict[Method, str]

    @property
    def best(self) -> Method | None:
        """The method with the lowest smoothed loss, `None` for the model itself."""
        return next(iter(self.curves))

    @property
    def suggestion(self) -> float:
        """The learning rate to train with: that of the best method."""
        return self.curves[self.best].suggestion

    @property
    def rates(self) -> np.ndarray:
        """The learning rates of the best method."""
        return self.curves[self.best].rates

    @property
    def losses(self) -> np.ndarray:
        """The losses of the best method."""
        return self.curves[self.best].losses

    @property
    def smoothed(self) -> np.ndarray:
        """The smoothed losses of the best method."""
        return self.curves[self.best].smoothed

    def as_table(self) -> Table:
        of_model = self.best is None
        table = _steps(self.curves[None]) if of_model else _methods(self.curves)
        notes = [f"{method}: {reason}" for method, reason in self.refused.items()]
        for method, curve in self.curves.items():
            if curve.still_falls:
                notes.append(
                    f"{'The loss' if of_model else method} is lowest at the highest rate: try a "
                    f"larger `high` than {curve.rates[-1]:.1e}."
                )
        first = "" if of_model else f"enable {self.best}, then "
        notes.append(f"Next, {first}type: model.optimizer.learning_rate = {self.suggestion:.1e}")
        return table._replace(notes="\n".join(notes))

    def plot(self) -> Any:
        """Draw the loss at each rate, with a dot at each suggestion; needs matplotlib.

        Returns:
            A matplotlib `Figure`.
        """
        return plot_rates(
            {
                str(method or "the model"): RateLine(
                    curve.rates, curve.losses, curve.smoothed, curve.suggestion
                )
                for method, curve in self.curves.items()
            }
        )


def _steps(curve: RateCurve) -> Table:
    """Return a table of some steps of one curve."""
    marks = {curve.lowest: "lowest"}
    marks[int(np.argmin(np.abs(np.log(curve.rates / curve.suggestion))))] = "suggestion"
    steps = {*np.linspace(0, len(curve.rates) - 1, ROWS).astype(int).tolist(), *marks}
    rows = [
        (
            f"{curve.rates[step]:.1e}",
            f"{curve.losses[step]:.4g}",
            f"{curve.smoothed[step]:.4g}",
            marks.get(step, ""),
        )
        for step in sorted(steps)
    ]
    return Table(("learning rate", "loss", "smoothed", ""), rows)


def _methods(curves: Mapping[Method | None, RateCurve]) -> Table:
    """Return a table of several curves."""
    rows = [
        (
            str(method),
            f"{curve.suggestion:.1e}",
            f"{curve.smoothed[0]:.4g}",
            f"{curve.smoothed[curve.lowest]:.4g}",
            f"{curve.rates[curve.lowest]:.1e}",
        )
        for method, curve in curves.items()
    ]
    return Table(("method", "suggestion", "loss at first", "lowest loss", "at"), rows)
