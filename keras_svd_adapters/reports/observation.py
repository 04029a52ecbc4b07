"""What a pass of data found for each kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.statistics import ExpertLoad, Inputs, Magnitudes
from keras_svd_adapters.runtime.tables import Bars, Table, TableReport, format_number

COLUMNS = {
    "inputs": "mean x^2",
    "magnitudes": "mean |x|",
    "branch_norms": "branch",
    "gradient": "gradient",
    "squared_gradients": "gradient^2",
    "expert_load": "largest load",
}

LOADS = "of each expert: share of the rows in which its weight is the largest, (its mean weight)"


@dataclass(frozen=True)
class KernelObservation:
    """What a pass of data found for one kernel; what was not asked for is `None`.

    Args:
        path: The names of the layers from the model to this one.
        shape: `(m, n)` of the kernel as a matrix.
        method: The method of the active adapter, or `None`.
        inputs: The `rows`, their `mean` of shape `(m,)`, and `second`, the mean of `x^T x`, of
            shape `(m, m)`.
        gradient: Gradient of the mean loss by the kernel, of shape `(m, n)`.
        magnitudes: The `rows`, and means of `|x|` and of `x^2`: `absolute` and `square`, of shape
            `(m,)`.
        branch_norms: Mean of `|x (K' - K)|^2` over the rows.
        squared_gradients: Mean over the samples of the squares of the gradient of the loss of one
            sample by the kernel, of shape `(m, n)`.
        expert_load: How the router spreads the `rows`: for each expert, the `share` of the rows in
            which it has the largest weight, the share in which it is `used`, with a weight other
            than 0, and its mean weight, `gate`; each of shape `(k,)`.
    """

    path: str
    shape: tuple[int, int]
    method: Method | None = None
    inputs: Inputs | None = field(default=None, repr=False)
    gradient: np.ndarray | None = field(default=None, repr=False)
    magnitudes: Magnitudes | None = field(default=None, repr=False)
    branch_norms: float | None = None
    squared_gradients: np.ndarray | None = field(default=None, repr=False)
    expert_load: ExpertLoad | None = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """The path without numbers, which kernels of one kind share, such as all queries."""
        return re.sub(r"\d+", "#", self.path)


@dataclass(frozen=True, repr=False, eq=False)
class Observation(TableReport, Mapping[str, KernelObservation]):
    """What a pass of data found: a dictionary of a `KernelObservation` for each kernel.

    A key is the path of a kernel or, if this path also selects another kernel, its key in adapter
    files. Each is a pattern for `targets`. Printing it shows a table.

    Args:
        kernels: The dictionary.
    """

    kernels: Mapping[str, KernelObservation]

    def __getitem__(self, name: str) -> KernelObservation:
        return self.kernels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.kernels)

    def __len__(self) -> int:
        return len(self.kernels)

    def importance(self, by_kind: bool = True) -> dict[str, float]:
        """Return the share of each kernel in the branch norms, as LoRA-drop does.

        Args:
            by_kind: Whether kernels whose paths differ only in numbers are compared by themselves,
                such as queries with queries. The shares of each kind then sum to 1.

        Raises:
            ValueError: If `branch_norms` were not observed, or all of a kind are 0.
        """
        sums: dict[str, float] = {}
        for name, kernel in self.kernels.items():
            if kernel.branch_norms is None:
                raise ValueError(
                    "The importance of a kernel follows from its branch norms: type "
                    "`observe(model, data, what='branch_norms')`. "
                    f"Received: a report without them, at `{name}`"
                )
            kind = kernel.kind if by_kind else ""
            sums[kind] = sums.get(kind, 0.0) + kernel.branch_norms
        if zero := [kind for kind, total in sums.items() if not total]:
            raise ValueError(
                "The adapter changes nothing in these kernels, so they have no order: train it "
                f"first. Received: branch norms of 0 in {', '.join(zero) or 'all kernels'}"
            )
        return {
            name: float(kernel.branch_norms or 0.0) / sums[kernel.kind if by_kind else ""]
            for name, kernel in self.kernels.items()
        }

    def as_table(self) -> Table:
        first = next(iter(self.kernels.values()))
        found = [name for name in COLUMNS if getattr(first, name) is not None]
        shares = self._shares()
        experts = max(len(_loads(kernel)) for kernel in self.kernels.values())
        head = ["kernel", "shape", *(COLUMNS[name] for name in found), *["share"] * bool(shares)]
        head += [f"expert {number}" for number in range(experts)]
        rows = []
        for name, kernel in self.kernels.items():
            figures = (format_number(_figure(getattr(kernel, column))) for column in found)
            share = [f"{shares[name]:.1%}"] if shares else []
            loads = _loads(kernel) + [""] * (experts - len(_loads(kernel)))
            rows.append([name, "{} x {}".format(*kernel.shape), *figures, *share, *loads])
        return Table(head, rows, LOADS if experts else "")

    def as_bars(self) -> Bars | None:
        shares = self._shares()
        return Bars("share of the branch norms of its kind", shares) if shares else None

    def _shares(self) -> dict[str, float]:
        try:
            return self.importance()
        except ValueError:
            return {}


def _loads(kernel: KernelObservation) -> list[str]:
    """Return the share and the mean weight of each expert of a kernel, if it has some."""
    load = kernel.expert_load
    if load is None:
        return []
    pairs = zip(load.share, load.gate, strict=True)
    return [f"{share:.0%} ({gate:.2f})" for share, gate in pairs]


def _figure(value: Any) -> float:
    """Return one number for a statistic."""
    if isinstance(value, ExpertLoad):
        return float(value.share.max())
    if isinstance(value, Inputs):
        return float(np.trace(value.second)) / len(value.second)
    if isinstance(value, Magnitudes):
        return float(value.absolute.mean())
    return float(value if isinstance(value, float) else np.linalg.norm(value))
