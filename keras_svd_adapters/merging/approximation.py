"""How near a new adapter is to what it stands for."""

from __future__ import annotations

from dataclasses import dataclass

from keras_svd_adapters.runtime.path_groups import group_similar_paths
from keras_svd_adapters.runtime.tables import Table, TableReport


@dataclass(frozen=True)
class ApproximateKernel:
    """How near the new adapter of one kernel is to what it stands for.

    Args:
        path: The path of the kernel.
        method: The new adapter's method, as text.
        error: Norm of the difference of the changes that they make to the
            kernel, relative to that of the change.
    """

    path: str
    method: str
    error: float


@dataclass(frozen=True, repr=False)
class Approximation(TableReport):
    """How near a new adapter is to what it stands for. Printing it shows a table.

    Args:
        name: Name of the new adapter.
        kernels: One `ApproximateKernel` per kernel.
        goal: In words, what it stands for.
        place: Where it is, in words.
    """

    name: str
    kernels: tuple[ApproximateKernel, ...]
    goal: str
    place: str = ""

    @property
    def error(self) -> float:
        """The largest relative error of a kernel's change."""
        return max(kernel.error for kernel in self.kernels)

    def as_table(self) -> Table:
        rows = []
        for path, places in group_similar_paths(kernel.path for kernel in self.kernels).items():
            some = [self.kernels[place] for place in places]
            methods = " ".join(dict.fromkeys(kernel.method for kernel in some))
            rows.append((path, methods, f"{max(kernel.error for kernel in some):.1e}"))
        place = self.place or f"{self.name!r} is active"
        error = f"by {self.error:.1e} of its norm at most"
        notes = f"{place}; what it adds differs from {self.goal} {error}"
        return Table(("kernel", "method", "error"), rows, notes)
