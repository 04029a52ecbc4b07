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
            relative to the norm of the kernel. Both norms are weighted as
            `quantize` weighs errors.
        error: The same with the adapter.
        storage: How the kernel is stored, such as `"int4/64"`: the mode, and the
            size of the groups if there are any.
        bits: Size of the stored kernel in bits for each of its values, with
            scales and zero points.
    """

    path: str
    alone: float
    error: float
    storage: str
    bits: float


@dataclass(frozen=True, repr=False)
class Compensation(TableReport):
    """Approximation errors of quantized kernels. Printing it shows a table.

    Args:
        mode: Quantization mode of the kernels; several are joined by a comma.
        name: Name of the adapter; `None` without one.
        kernels: One `CompensatedKernel` per kernel.
        bits: Mean size of all these kernels, in bits for each of their values.
    """

    mode: str
    name: str | None
    kernels: tuple[CompensatedKernel, ...]
    bits: float

    def as_table(self) -> Table:
        rows = []
        for path, kernels in group_similar_paths(self.kernels).items():
            alone, error = max(k.alone for k in kernels), max(k.error for k in kernels)
            stored = ", ".join(sorted({k.storage for k in kernels}))
            rows.append((path, stored, f"{alone:.2%}", f"{error:.2%}"))
        head = ("kernel", "stored as", f"error of {self.mode}", "with the adapter")
        notes = f"{self.bits:.2f} bits a value; the largest errors of similar kernels"
        if self.name is None:
            return Table(head[:-1], [row[:-1] for row in rows], notes)
        return Table(head, rows, f"{self.name!r} is active; {notes}")
