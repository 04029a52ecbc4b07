"""Compare what several methods would cost on a model, within a budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.without_weights import ModelSource, build_without_values
from keras_svd_adapters.reports.plan import plan
from keras_svd_adapters.reports.plan_report import Plan
from keras_svd_adapters.runtime.plots import plot_bars
from keras_svd_adapters.runtime.tables import Table, TableReport

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
    """

    plans: dict[Method, Plan]
    refused: dict[Method, str]
    budget: float | None
    of: str

    def fits(self, method: Method) -> bool:
        """Return whether a method is within the budget."""
        cost = getattr(self.plans[method], COSTS[self.of])
        return self.budget is None or cost <= self.budget

    @property
    def best(self) -> Method | None:
        """The first method within the budget, `None` if none is."""
        return next((method for method in self.plans if self.fits(method)), None)

    def as_table(self) -> Table:
        head = ("method", "trains", "file", "frozen factors", "decompositions", "fits")
        rows = [
            (
                str(method),
                f"{found.trainable_parameters:,}",
                f"{found.file_bytes / 1e3:,.1f} kB",
                f"{found.frozen_bytes / 1e6:,.1f} MB",
                f"{found.seconds:,.1f} s",
                "yes" if self.fits(method) else "no",
            )
            for method, found in self.plans.items()
        ]
        notes = [f"{method}: {reason}" for method, reason in self.refused.items()]
        if self.budget is None:
            return Table(head[:-1], [row[:-1] for row in rows], "\n".join(notes))
        notes.append(f"The budget is {self.budget:,} {self.of}")
        return Table(head, rows, "\n".join(notes))

    def plot(self) -> Any:
        """Draw the values that each method would train. Returns a matplotlib figure."""
        values = [found.trainable_parameters for found in self.plans.values()]
        return plot_bars([*map(str, self.plans)], {"values that train": values})


def compare(
    model: keras.layers.Layer | ModelSource,
    methods: Iterable[Method],
    budget: float | None = None,
    of: str = "values",
    **how: Any,
) -> Comparison:
    """Plan several methods side by side, those within a budget first.

    Nothing is decomposed, and the model does not change.

    Args:
        model: A built Keras model, or what `plan` takes instead.
        methods: Methods such as `[LoRA(rank=8), SVF(), SVFT(pattern="banded", d=2)]`.
        budget: The most that a method may cost; `None` for no limit.
        of: What the budget limits: `"values"` that train, `"file_bytes"`,
            `"frozen_bytes"`, or `"seconds"` of decompositions.
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
    if of not in COSTS:
        raise ValueError(f"`of` is one of {', '.join(COSTS)}. Received: of={of!r}")
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
    found = Comparison(plans, refused, budget, of)
    order = sorted(plans, key=lambda m: (not found.fits(m), -plans[m].trainable_parameters))
    return replace(found, plans={method: plans[method] for method in order})
