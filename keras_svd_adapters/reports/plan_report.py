"""The report of `plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.layer_tree import format_layer_tree
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.reports.device_memory import DeviceBytes
from keras_svd_adapters.runtime.path_groups import group_similar_paths
from keras_svd_adapters.runtime.plots import plot_bars
from keras_svd_adapters.runtime.tables import Bars, Table, TableReport

UNREAD = "in host memory, if PyTorch or JAX 0.10 computes on a GPU or TPU"


@dataclass(frozen=True)
class PlannedSite:
    """One kernel in a `Plan`.

    `seconds` counts one core. `cached` means a cached decomposition. `unread_bytes` are those of
    the kernel, if no step reads it.
    """

    site: Site = field(repr=False)
    method: Method
    form: str
    trainable_parameters: int
    frozen_bytes: int
    file_bytes: int
    seconds: float
    cached: bool
    unread_bytes: int = 0

    @property
    def path(self) -> str:
        """The names of the layers from the model to this one."""
        return self.site.path


@dataclass(frozen=True, repr=False)
class Plan(TableReport):
    """Cost estimate of `enable`. Printing it shows a table.

    Args:
        sites: One `PlannedSite` per kernel.
        model_parameters: Number of values of the model without its adapters.
        shared_bytes: Bytes of frozen arrays that all kernels share.
        shared_file_bytes: Bytes of shared arrays that an adapter file holds.
        workers: Number of kernels that are decomposed at the same time.
        device: Memory that each device needs, if a distribution was given.
        other_parameters: Number of values that would train outside of the adapter.
        other_file_parameters: Number of these values in the file, with the statistics of
            batch normalizations.
        tied_groups: Shapes of the trained arrays that several kernels read, with the number of
            these kernels.
    """

    sites: tuple[PlannedSite, ...]
    model_parameters: int
    shared_bytes: int = 0
    shared_file_bytes: int = 0
    workers: int = 1
    device: DeviceBytes | None = None
    other_parameters: int = 0
    other_file_parameters: int = 0
    tied_groups: tuple[tuple[dict[str, tuple[int, ...]], int], ...] = ()

    @property
    def trainable_parameters(self) -> int:
        """Number of values that would train."""
        return self.other_parameters + sum(site.trainable_parameters for site in self.sites)

    @property
    def trainable_bytes(self) -> int:
        """Bytes of the trainable values in float32."""
        return 4 * self.trainable_parameters

    @property
    def file_bytes(self) -> int:
        """Bytes of the values in the adapter file, without its few kB of text."""
        others = 4 * self.other_file_parameters
        return others + self.shared_file_bytes + sum(site.file_bytes for site in self.sites)

    @property
    def frozen_bytes(self) -> int:
        """Bytes of frozen arrays that would be added.

        A kernel whose spectrum forbids the one-sided form needs more. Only the
        decomposition of the kernel can show this.
        """
        return self.shared_bytes + sum(site.frozen_bytes for site in self.sites)

    @property
    def unread_bytes(self) -> int:
        """Bytes of kernels that no step reads: on a GPU or TPU, they are in host memory."""
        return sum(site.unread_bytes for site in self.sites)

    @property
    def seconds(self) -> float:
        """Estimated seconds until all kernels are decomposed on this machine."""
        seconds = [site.seconds for site in self.sites]
        return max(sum(seconds) / self.workers, max(seconds, default=0.0))

    def as_table(self) -> Table:
        groups: dict[tuple[str, str], list[PlannedSite]] = {}
        for site in self.sites:
            groups.setdefault((str(site.method), site.form), []).append(site)
        rows = [
            (
                method,
                form,
                str(len(sites)),
                f"{sum(s.trainable_parameters for s in sites):,}",
                f"{sum(s.frozen_bytes for s in sites) / 1e6:,.1f} MB",
                _decompositions(sites),
            )
            for (method, form), sites in groups.items()
        ]
        head = ("method", "form", "kernels", "trains", "frozen factors", "decompositions")
        shared = f"; {self.shared_bytes / 1e6:,.1f} MB shared by them all" * bool(self.shared_bytes)
        kB = f"{self.file_bytes / 1e3:,.{int(self.file_bytes < 1e4)}f}"
        wait = f"; about {self.seconds:,.1f} s to decompose" * bool(self.seconds)
        others = f", {self.other_parameters:,} of them outside of the adapter"
        shown = others * bool(self.other_parameters)
        share = 100 * self.trainable_parameters / max(self.model_parameters, 1)
        notes = (
            f"{format_layer_tree(planned.site for planned in self.sites)}\n"
            f"{self.trainable_parameters:,} values would train{shown}, {share:.3g} % of "
            f"{self.model_parameters:,}; file about {kB} kB{shared}{wait}"
            + _groups(self.tied_groups)
            + f"\n{self.unread_bytes / 1e6:,.1f} MB of kernels that no step reads: {UNREAD}"
            * bool(self.unread_bytes)
            + "".join(f"\n{note}" for note in _notes(self.sites))
            + f"\n{self.device}" * bool(self.device)
        )
        return Table(head, rows, notes)

    def as_bars(self) -> Bars:
        return Bars("values that would train", {s.path: s.trainable_parameters for s in self.sites})

    def plot(self) -> Any:
        """Draw the trainable values and frozen factors of each kind of kernel; needs matplotlib.

        Returns:
            A matplotlib `Figure`.
        """
        groups = group_similar_paths(self.sites)
        sites = groups.values()
        series: dict[str, list[float]] = {
            "values that would train": [
                sum(s.trainable_parameters for s in each) for each in sites
            ],
            "frozen factors, MB": [sum(s.frozen_bytes for s in each) / 1e6 for each in sites],
        }
        return plot_bars(list(groups), series)


def _notes(sites: tuple[PlannedSite, ...]) -> list[str]:
    """Return what a user must know of these methods before `enable`."""
    methods = dict.fromkeys(site.method for site in sites)
    reading = ", ".join(str(method) for method in methods if method.needs)
    away = ", ".join(str(method) for method in methods if not method.starts_at_base)
    return [
        *[f"{reading}: `enable` needs `calibrate=`, data that it reads"] * bool(reading),
        *[f"{away}: starts away from the base model on purpose"] * bool(away),
    ]


def _decompositions(sites: list[PlannedSite]) -> str:
    seconds, kept = sum(site.seconds for site in sites), sum(site.cached for site in sites)
    return f"{seconds:,.1f} s" + f", {kept} in the cache" * bool(kept)


def _groups(groups: Sequence[tuple[dict[str, tuple[int, ...]], int]]) -> str:
    """Return a line that names the groups of kernels that read the same arrays, if several."""
    shown = [
        f"{' and '.join(f'{name} {shape}' for name, shape in shapes.items())} of {count} kernels"
        for shapes, count in groups
    ]
    return f"\nkernels of equal shapes share arrays: {'; '.join(shown)}" * (len(shown) > 1)
