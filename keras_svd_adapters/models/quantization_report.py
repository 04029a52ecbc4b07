"""Report of the errors of quantized kernels."""

from __future__ import annotations

from dataclasses import dataclass

from keras_svd_adapters.runtime.path_groups import group_similar_paths
from keras_svd_adapters.runtime.tables import Table, TableReport


@dataclass(frozen=True)
class CompensatedKernel:
    """Quantization error of a kernel, with and without its adapter.

    Args:
        path: The path of the kernel.
        alone: Norm of the error of the quantized kernel without an adapter,
            relative to the norm of the kernel.
        error: The same with the adapter.
    """

    path: str
    alone: float
    error: float


@dataclass(frozen=True, repr=False)
class Compensation(TableReport):
    """Approximation errors of quantized kernels. Printing it shows a table.

    Args:
        mode: Quantization mode of the kernels.
        name: Name of the adapter; `None` without one.
        kernels: One `CompensatedKernel` per kernel.
    """

    mode: str
    name: str | None
    kernels: tuple[CompensatedKernel, ...]

    def as_table(self) -> Table:
        rows = []
        for path, kernels in group_similar_paths(self.kernels).items():
            alone, error = max(k.alone for k in kernels), max(k.error for k in kernels)
            rows.append((path, f"{alone:.2%}", *([] if self.name is None else [f"{error:.2%}"])))
        head, notes = ("kernel", f"error of {self.mode}"), "the largest errors of similar kernels"
        if self.name is None:
            return Table(head, rows, notes.capitalize())
        return Table((*head, "with the adapter"), rows, f"{self.name!r} is active; {notes}")
