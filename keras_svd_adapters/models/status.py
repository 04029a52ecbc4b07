"""Report which kernels are adapted, which weights train and how far they have moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value, base_kernel_variable
from keras_svd_adapters.kernels.placement import format_layout
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.layer_tree import format_layer_tree
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.generation import ADVICE, can_merge
from keras_svd_adapters.models.state.trained_weights import base_weights
from keras_svd_adapters.runtime.host_memory import bytes_on_host
from keras_svd_adapters.runtime.host_values import to_float_array
from keras_svd_adapters.runtime.path_groups import group_paths
from keras_svd_adapters.runtime.plots import plot_bars
from keras_svd_adapters.runtime.tables import Bars, Table, TableReport

AWAY = "An active method starts away from the base model on purpose"


@dataclass(frozen=True, repr=False)
class Status(TableReport):
    """State of the adapters of a model. Printing it shows a table.

    Args:
        adapters: One row for each group of similar adapters: name, method,
            form, number of kernels, trained values, largest move from the
            start, whether active or its weight.
        trainable_parameters: Total number of values that train now.
        total_parameters: Number of values of the model without its adapters.
        trainable_weights: Paths of the weights that train now.
        layouts: How kernels and adapter arrays are sharded, if requested.
        moves: For each adapted layer, the largest move of the active adapters from
            their start.
        is_away: Whether an active adapter starts away from the base model on purpose.
        distances: For each kernel with such an adapter, the norm of the kernel's update relative
            to the kernel, if the active adapters change kernels alone.
        can_merge: Whether adapters are active and `merge` may fold them into their kernels.
        host_bytes: Bytes of kernels in host memory, since the active adapters compute without them.
    """

    adapters: tuple[tuple[str, ...], ...]
    trainable_parameters: int
    total_parameters: int
    trainable_weights: tuple[str, ...] = field(repr=False)
    layers: str = field(repr=False)
    layouts: str = field(default="", repr=False)
    moves: dict[str, float] = field(default_factory=dict, repr=False)
    is_away: bool = field(default=False, repr=False)
    distances: dict[str, float] = field(default_factory=dict, repr=False)
    can_merge: bool = field(default=False, repr=False)
    host_bytes: int = field(default=0, repr=False)

    def as_table(self) -> Table:
        head = ("name", "method", "form", "kernels", "values", "largest move", "active")
        share = 100 * self.trainable_parameters / max(self.total_parameters, 1)
        if not self.adapters:
            return Table(head, (), f"No adapters. {self.trainable_parameters:,} values train.")
        notes = (
            f"{self.layers}\n{self.layouts}"
            f"{self.trainable_parameters:,} values train, {share:.3g} % of "
            f"{self.total_parameters:,}, in {len(self.trainable_weights)} weights"
            + f"\n{AWAY}"
            * self.is_away
            + "; its kernels differ from the base's by "
            f"{max(self.distances.values(), default=0):.2g} of their norm at the most"
            * bool(self.distances)
            + f"\n{self.host_bytes / 1e6:,.1f} MB of kernels are in host memory, since the active "
            "adapters compute without them" * bool(self.host_bytes) + f"\n{ADVICE}" * self.can_merge
        )
        return Table(head, self.adapters, notes)

    def as_bars(self) -> Bars:
        return Bars("largest move from the start", self.moves)

    def plot(self) -> Any:
        """Draw the largest move of each kind of layer; needs matplotlib.

        Returns:
            A matplotlib `Figure`.

        Raises:
            ValueError: If no adapter is active.
        """
        if not self.moves:
            raise ValueError("There is nothing to draw: no adapter is active. Received: plot()")
        title, moves = self.as_bars()
        groups = group_paths((path, "") for path in moves)
        numbers = list(moves.values())
        largest = [max(numbers[place] for place in places) for _, _, places in groups]
        return plot_bars([path for path, _, _ in groups], {title: largest})


def status(model: keras.layers.Layer, layouts: bool = False) -> Status:
    """Report which kernels are adapted, which weights train and how far they have moved.

    Args:
        model: Any Keras model.
        layouts: Whether to show how kernels and adapter arrays are sharded over
            devices: which mesh axis shards each of their axes.

    Returns:
        A `Status`; print it.
    """
    sites = adapted_sites(model)
    moves = {
        (site.path, name): largest_move(adapter)
        for site in sites
        for name, adapter in adapters_of(site.layer).items()
    }
    trainable = model.trainable_weights
    return Status(
        adapters=tuple(_rows(sites, moves)),
        trainable_parameters=_count(trainable),
        total_parameters=_count([weight for _, _, weight in base_weights(model)]),
        trainable_weights=tuple(weight.path for weight in trainable),
        layers=format_layer_tree(sites),
        layouts=_layouts(sites) if layouts else "",
        can_merge=any(site.layer.active_adapters for site in sites) and can_merge(sites),
        moves={site.path: move for site in sites if not np.isnan(move := _largest(site, moves))},
        is_away=any(map(_is_away, sites)),
        host_bytes=sum(bytes_on_host(base_kernel_variable(site.layer)) for site in sites),
        distances={
            site.path: _distance(site)
            for site in sites
            if _is_away(site)
            and site.host.has_kernel
            and not any(method.depends_on_input for method in _active_methods(site))
        },
    )


def _active_methods(site: Site) -> list[Method]:
    adapters = adapters_of(site.layer)
    return [adapters[name].method for name in site.layer.active_adapters]


def _is_away(site: Site) -> bool:
    return any(not method.starts_at_base for method in _active_methods(site))


def _largest(site: Site, moves: dict[tuple[str, str], float]) -> float:
    """Return the largest move of the active adapters of a layer, NaN if there is none."""
    found = [moves[site.path, name] for name in site.layer.active_adapters]
    return max((move for move in found if not np.isnan(move)), default=float("nan"))


def _distance(site: Site) -> float:
    kernel = base_kernel_value(site.layer)
    update, matrix = to_float_array(site.layer.update(kernel)), to_float_array(kernel)
    return float(np.linalg.norm(update) / (np.linalg.norm(matrix) or 1.0))


def _layouts(sites: list[Site]) -> str:
    lines = []
    for site in sites:
        for name, adapter in adapters_of(site.layer).items():
            arrays = ", ".join(f"{n} {format_layout(v)}" for n, v in adapter.arrays.items())
            kernel = format_layout(base_kernel_variable(site.layer))
            lines.append((site.path, f"{name}: kernel {kernel}, {arrays}"))
    return "".join(f"{path}  {what}\n" for path, what, _ in group_paths(lines))


def _rows(sites: list[Site], moves: dict[tuple[str, str], float]) -> list[tuple[str, ...]]:
    groups: dict[tuple[str, str, str, str], list[tuple[Adapter, float]]] = {}
    for site in sites:
        for name, adapter in adapters_of(site.layer).items():
            key = (name, str(adapter.method), adapter.form, _activity(site, name))
            groups.setdefault(key, []).append((adapter, moves[site.path, name]))
    return [
        (
            name,
            method,
            form,
            str(len(adapters)),
            f"{_count(_trained(adapters)):,}",
            _shown(max(move for _, move in adapters)),
            active,
        )
        for (name, method, form, active), adapters in groups.items()
    ]


def _activity(site: Site, name: str) -> str:
    """Return whether an adapter is active on a layer, or its weight and whether it trains."""
    if name not in site.layer.active_adapters:
        return "no"
    if (weights := site.layer.adapter_weights()) is None:
        return "yes"
    return f"{weights.on_host()[name]:.3g}" + ", trains" * (name in weights.trained)


def _trained(adapters: list[tuple[Adapter, float]]) -> list[keras.Variable]:
    """Return the trained arrays of some adapters, tied ones once."""
    return list({id(v): v for adapter, _ in adapters for v in adapter.trained.values()}.values())


def _shown(move: float) -> str:
    return "-" if np.isnan(move) else f"{move:.2g}"


def largest_move(adapter: Adapter) -> float:
    """Return the largest distance of a trained value from its start, if the start is one number."""
    declared = adapter.declared
    moves = [
        float(np.abs(to_float_array(variable) - declared[name].start).max())
        for name, variable in adapter.trained.items()
        if declared[name].start is not None
    ]
    return max(moves, default=float("nan"))


def _count(weights: list[keras.Variable]) -> int:
    return sum(int(np.prod(weight.shape)) for weight in weights)
