"""Approximation error of a converted or combined adapter."""

from __future__ import annotations

from dataclasses import dataclass

from keras_svd_adapters.runtime.path_groups import group_similar_paths
from keras_svd_adapters.runtime.tables import Bars, Table, TableReport


@dataclass(frozen=True)
class ApproximateKernel:
    """Approximation error of the new adapter of one kernel.

    Args:
        path: The path of the kernel.
        method: The new adapter's method, as text.
        error: Norm of the difference between the new update of the kernel and
            the target update, relative to the norm of the target update.
    """

    path: str
    method: str
    error: float


@dataclass(frozen=True, repr=False)
class Approximation(TableReport):
    """Approximation error of a converted or combined adapter. Printing it shows a table.

    Args:
        name: Name of the new adapter.
        kernels: One `ApproximateKernel` per kernel.
        goal: The target update, in words.
        place: The location of the adapter, in words.
    """

    name: str
    kernels: tuple[ApproximateKernel, ...]
    goal: str
    place: str = ""

    @property
    def error(self) -> float:
        """The largest relative error of a kernel's update."""
        return max(kernel.error for kernel in self.kernels)

    def as_table(self) -> Table:
        rows = []
        for path, kernels in group_similar_paths(self.kernels).items():
            methods = " ".join(dict.fromkeys(kernel.method for kernel in kernels))
            rows.append((path, methods, f"{max(kernel.error for kernel in kernels):.1e}"))
        place = self.place or f"{self.name!r} is active"
        error = f"by {self.error:.1e} of its norm at most"
        notes = f"{place}; its update differs from {self.goal} {error}"
        return Table(("kernel", "method", "error"), rows, notes)

    def as_bars(self) -> Bars:
        return Bars("error of the update", {kernel.path: kernel.error for kernel in self.kernels})
