"""Compare what several methods would cost on a model, within a budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.without_weights import ModelSource, build_without_values
from keras_svd_adapters.reports.plan import plan
from keras_svd_adapters.reports.plan_report import Plan
from keras_svd_adapters.reports.step_time import added_milliseconds
from keras_svd_adapters.runtime.plots import plot_bars
from keras_svd_adapters.runtime.tables import Bars, Table, TableReport

MILLISECONDS = "milliseconds"
COSTS = {
    "values": "trainable_parameters",
    "file_bytes": "file_bytes",
    "frozen_bytes": "frozen_bytes",
    "seconds": "seconds",
}


@dataclass(frozen=True, repr=False)
class Comparison(TableReport):
    """Plans of several methods, the best first. Printing it shows a table.

    Args:
        plans: A `Plan` for each method: first those within the budget, and of these the one
            that trains most.
        refused: For each method that cannot adapt the model, the reason.
        budget: The budget, if there is one.
        of: What the budget limits.
        milliseconds: For each method, the measured time that it adds to a training step,
            if the budget is of milliseconds.
    """

    plans: dict[Method, Plan]
    refused: dict[Method, str]
    budget: float | None
    of: str
    milliseconds: dict[Method, float] = field(default_factory=dict)

    def cost(self, method: Method) -> float:
        """Return what the budget limits, for a method."""
        if self.of == MILLISECONDS:
            return self.milliseconds[method]
        return float(getattr(self.plans[method], COSTS[self.of]))

    def fits(self, method: Method) -> bool:
        """Return whether a method is within the budget."""
        return self.budget is None or self.cost(method) <= self.budget

    @property
    def best(self) -> Method | None:
        """The first method within the budget, `None` if none is."""
        return next((method for method in self.plans if self.fits(method)), None)

    def as_table(self) -> Table:
        head = ["method", "trains", "file", "frozen factors", "decompositions"]
        head += ["a step adds"] * bool(self.milliseconds) + ["fits"] * (self.budget is not None)
        rows = [self._row(method, found) for method, found in self.plans.items()]
        notes = [f"{method}: {reason}" for method, reason in self.refused.items()]
        if self.budget is not None:
            notes.append(f"The budget is {self.budget:,} {self.of}")
        return Table(head, rows, "\n".join(notes))

    def _row(self, method: Method, found: Plan) -> list[str]:
        row = [
            str(method),
            f"{found.trainable_parameters:,}",
            f"{found.file_bytes / 1e3:,.1f} kB",
            f"{found.frozen_bytes / 1e6:,.1f} MB",
            f"{found.seconds:,.1f} s",
        ]
        row += [f"{self.milliseconds[method]:.2f} ms"] if self.milliseconds else []
        return row + ["yes" if self.fits(method) else "no"] * (self.budget is not None)

    def as_bars(self) -> Bars:
        values = {str(m): found.trainable_parameters for m, found in self.plans.items()}
        return Bars("values that train", values)

    def plot(self) -> Any:
        """Draw the values that each method would train. Returns a matplotlib figure."""
        title, values = self.as_bars()
        return plot_bars([*values], {title: [*values.values()]})


def compare(
    model: keras.layers.Layer | ModelSource,
    methods: Iterable[Method],
    budget: float | None = None,
    of: str = "values",
    tokens: int = 512,
    **how: Any,
) -> Comparison:
    """Plan several methods side by side, those within a budget first.

    The model does not change. Nothing is decomposed, except to measure milliseconds.

    Args:
        model: A built Keras model, or what `plan` takes instead.
        methods: Methods such as `[LoRA(rank=8), SVF(), SVFT(pattern="banded", d=2)]`.
        budget: The most that a method may cost; `None` for no limit.
        of: What the budget limits: `"values"` that train, `"file_bytes"`,
            `"frozen_bytes"`, `"seconds"` of decompositions, or `"milliseconds"` that
            a method adds to a training step. These are measured on this machine, on
            random layers of the same shapes.
        tokens: Number of tokens of a batch, for `"milliseconds"`.
        **how: Arguments of `plan`, such as `targets` and `train`.

    Returns:
        A `Comparison` with `.plans` and `.best`; print it.

    Raises:
        ValueError: If there is no such kind of budget, no method, or if `plan`
            raises an error for every method.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> ksa.compare(model, [ksa.LoRA(rank=2), ksa.SVF(), ksa.SVFT()], budget=20).best
    SVF()
    """
    listed = list(methods)
    if of not in (*COSTS, MILLISECONDS):
        kinds = ", ".join((*COSTS, MILLISECONDS))
        raise ValueError(f"`of` is one of {kinds}. Received: of={of!r}")
    if not isinstance(tokens, int) or tokens < 1:
        raise ValueError(
            f"`tokens` is a number of tokens, such as 512. Received: tokens={tokens!r}"
        )
    if not listed or not all(isinstance(method, Method) for method in listed):
        raise ValueError(
            f"`methods` is a list such as `[LoRA(rank=8), SVF()]`. Received: methods={listed!r}"
        )
    if not isinstance(model, keras.layers.Layer):
        model = build_without_values(model)
    plans: dict[Method, Plan] = {}
    refused: dict[Method, str] = {}
    for method in listed:
        try:
            plans[method] = plan(model, method, **how)
        except ValueError as error:
            refused[method] = str(error)
    if not plans:
        raise ValueError("\n".join(f"{m}: {reason}" for m, reason in refused.items()))
    added = {
        method: added_milliseconds(found.sites, tokens)
        for method, found in plans.items()
        if of == MILLISECONDS
    }
    found = Comparison(plans, refused, budget, of, added)
    order = sorted(plans, key=lambda m: (not found.fits(m), -plans[m].trainable_parameters))
    return replace(
        found,
        plans={method: plans[method] for method in order},
        milliseconds={method: added[method] for method in order if added},
    )
