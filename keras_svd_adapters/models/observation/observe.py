"""The statistics of data that methods need before they start."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import keras

from keras_svd_adapters.adapters.mode import current_mode, in_mode
from keras_svd_adapters.methods.contract import Statistics
from keras_svd_adapters.models.assignment import Chosen
from keras_svd_adapters.models.batches import Batch
from keras_svd_adapters.models.observation.batches import as_tensors, calibration_batches
from keras_svd_adapters.models.observation.component_pass import ComponentPass
from keras_svd_adapters.models.observation.passes import GradientPass, InputPass, Pass
from keras_svd_adapters.runtime.machine import free_bytes
from keras_svd_adapters.runtime.processes import process_count
from keras_svd_adapters.runtime.progress import KernelProgress

PASSES: tuple[type[Pass], ...] = (InputPass, ComponentPass, GradientPass)
SHARE = 0.25  # of the free memory, for what a group of kernels needs


class Observed(dict[str, list[Statistics]]):
    """The statistics of kernels: for each of their matrices, by the key of the site.

    If those of all kernels need too much memory at once, groups of kernels take turns: `pop` passes
    the data through the model again for the next group.

    Args:
        model: The model.
        chosen: The sites to adapt, each with its method.
        groups: The passes for each group of kernels.
        data: The data, as `calibrate` of `enable`.
        verbose: As in `enable`.
    """

    def __init__(
        self,
        model: keras.layers.Layer,
        chosen: Chosen,
        groups: list[list[Pass]],
        data: Any,
        verbose: int | str,
    ):
        super().__init__()
        self.model, self.groups, self.data, self.verbose = model, groups, data, verbose
        self.plain = frozenset(id(site.layer) for site, _ in chosen)
        batches, self.count = calibration_batches(data)
        self.batches = batches if len(groups) == 1 else list(batches)
        self.observe()

    def pop(self, key: str, *default: Any) -> Any:
        """Return the statistics of a kernel, and forget them."""
        while key not in self and any(key in each.keys for group in self.groups for each in group):
            self.observe()
        return super().pop(key, *default)

    def observe(self) -> None:
        """Pass the data through the model for the next group of kernels."""
        passes, mode = self.groups.pop(0), current_mode()
        with ExitStack() as stack:
            for each in passes:
                stack.enter_context(each.probing())
            stack.enter_context(in_mode(replace(mode, base=mode.base | self.plain)))
            progress = stack.enter_context(
                KernelProgress([1.0] * self.count, self.verbose, "batches")
            )
            _run(self.model, passes, self.batches, progress if self.count else None, self.data)
        for each in passes:
            for site in each.sites:
                new = each.statistics(site)
                before = self.get(site.key, [Statistics()] * len(new))
                self[site.key] = [
                    one._replace(**{each.need: value})
                    for one, value in zip(before, new, strict=True)
                ]


def observe(
    model: keras.layers.Layer, chosen: Chosen, data: Any, verbose: int | str
) -> Observed | None:
    """Pass data through a model, and return the statistics that methods need.

    The kernels compute without adapters, and all others with their active ones. Afterwards, the
    model is as before.

    Args:
        model: The model.
        chosen: The sites to adapt, each with its method.
        data: The data, as `calibrate` of `enable`.
        verbose: As in `enable`.

    Returns:
        The statistics, or `None` if no method needs any.

    Raises:
        ValueError: If data is missing, has no effect, or does not suit the model.
    """
    groups = [_passes(model, group) for group in groups_of(chosen, int(SHARE * free_bytes()))]
    passes = [each for group in groups for each in group]
    _check_data(chosen, passes, data)
    for each in passes:
        each.check()
    return Observed(model, chosen, groups, data, verbose) if passes else None


def groups_of(chosen: Chosen, most: int) -> list[Chosen]:
    """Return groups of kernels whose statistics need no more than a number of bytes at once."""
    groups: list[Chosen] = [[]]
    used = 0
    for site, method in chosen:
        size = sum(kind.bytes_for(site) for kind in PASSES if kind.need in method.needs)
        if used and used + size > most:
            groups.append([])
            used = 0
        used += size
        groups[-1 if size else 0].append((site, method))
    return groups


def _passes(model: keras.layers.Layer, chosen: Chosen) -> list[Pass]:
    needing = {
        kind: [(site, method) for site, method in chosen if kind.need in method.needs]
        for kind in PASSES
    }
    return [kind(model, found) for kind, found in needing.items() if found]


def _check_data(chosen: Chosen, passes: list[Pass], data: Any) -> None:
    methods = ", ".join(dict.fromkeys(str(method) for _, method in chosen))
    if passes and data is None:
        needing = next(method for _, method in chosen if method.needs)
        example = "(x, y)" if "gradient" in needing.needs else "x"
        raise ValueError(
            f"This start reads data: pass some hundred samples, as in `calibrate={example}`. "
            f"Received: calibrate=None, with {needing}"
        )
    if passes and process_count() > 1:
        raise ValueError(
            "Each process would see other data: calibrate in one process, `save_adapter`, and "
            f"`load_adapter` in all of them. Received: {process_count()} processes"
        )
    if not passes and data is not None:
        raise ValueError(
            "No method here reads data before it starts: leave `calibrate` out. "
            f"Received: {methods}"
        )


def _run(
    model: keras.layers.Layer,
    passes: list[Pass],
    batches: Iterable[Batch],
    progress: KernelProgress | None,
    data: Any,
) -> None:
    is_empty = True
    for batch in batches:
        is_empty = False
        tensors = as_tensors(model, batch)
        for each in passes:
            each.add(tensors)
        if progress is not None:
            progress.step("calibration")
    if is_empty:
        raise ValueError(
            "The data has no batch. A generator that was read before is empty: make a new one. "
            f"Received: calibrate={data!r}"
        )
