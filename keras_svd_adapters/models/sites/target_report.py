"""Report of the kernels that `targets` selects, before the model changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import keras

from keras_svd_adapters.models.sites.blocks import attention_keys, numbered
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.selection import select_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.path_groups import group_paths
from keras_svd_adapters.runtime.tables import Table, TableReport


@dataclass(frozen=True, repr=False)
class Choice(TableReport):
    """Every kernel of a model that can be named, and the selected ones among them.

    Printing it shows a table, in which paths that differ only in numbers share a row.

    Args:
        sites: The selected kernels.
        known: All kernels of the model.
    """

    sites: tuple[Site, ...]
    known: tuple[Site, ...]

    @property
    def values(self) -> int:
        """Number of values of the selected kernels."""
        return sum(prod(site.shape) for site in self.sites)

    def as_table(self) -> Table:
        head = ("", "kernel", "layer", "shape", "part")
        notes = f"* {len(self.sites)} of {len(self.known)} kernels selected, {self.values:,} values"
        selected = {site.key for site in self.sites}
        obstacles = ((s.path, s.exclusion_reason()) for s in self.known if s.key not in selected)
        for path, why, _ in group_paths(each for each in obstacles if each[1]):
            notes += f"\n- `{path}` cannot be adapted: {why}"
        return Table(head, _rows(self.known, selected), notes)


def targets(
    model: keras.layers.Layer,
    targets: Targets = None,
    exclude: Targets = None,
    layers: Iterable[int] | None = None,
    last: int | None = None,
    tied: bool = False,
) -> Choice:
    """Show the kernels that some targets select, without changing the model.

    Args:
        model: A built Keras model.
        targets: As in `enable`.
        exclude: As in `enable`.
        layers: As in `enable`.
        last: As in `enable`.
        tied: As in `enable`.

    Returns:
        A `Choice`; print it.

    Raises:
        ValueError: If a pattern matches nothing, or a layer that cannot be
            adapted.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> len(ksa.targets(model, "all").sites)
    1
    """
    chosen = select_sites(model, targets, exclude, layers, last, tied)
    return Choice(tuple(chosen), tuple(find_sites(model)))


def _rows(sites: Sequence[Site], selected: set[str]) -> list[tuple[str, ...]]:
    inside, attention = numbered(sites), attention_keys(sites)
    parts = {key: "attention" if key in attention else "mlp" for key in inside}
    items = [
        (site.path, _what(site, site.key in selected, parts.get(site.key, ""))) for site in sites
    ]
    return [(what[0], path, *what[1:]) for path, what, _ in group_paths(items)]


def _what(site: Site, selected: bool, part: str) -> tuple[str, ...]:
    part = "embedding" if site.host.is_lookup else part
    mark = "*" if selected else "-" if site.exclusion_reason() else ""
    return mark, site.kind, str(site.shape), part
