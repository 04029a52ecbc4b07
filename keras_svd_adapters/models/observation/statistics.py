"""The statistics of data: those that methods need before they start, and others on request."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import keras

from keras_svd_adapters.adapters.mode import current_mode, in_mode
from keras_svd_adapters.methods.statistics import Statistics
from keras_svd_adapters.models.assignment import Chosen
from keras_svd_adapters.models.batches import Batch
from keras_svd_adapters.models.observation.batches import as_tensors, data_batches
from keras_svd_adapters.models.observation.forward import ForwardPass
from keras_svd_adapters.models.observation.gradients import FisherPass, GradientPass
from keras_svd_adapters.models.observation.passes import Counts, Pass, Wanted
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.machine import free_bytes
from keras_svd_adapters.runtime.processes import process_count
from keras_svd_adapters.runtime.progress import KernelProgress
from keras_svd_adapters.runtime.random_state import RandomState

PASSES: tuple[type[Pass], ...] = (ForwardPass, GradientPass, FisherPass)
PASS_OF = {need: kind for kind in PASSES for need in kind.needs}  # by the field of `Statistics`
SHARE = 0.25  # of the free memory, for what a group of kernels needs


class Observed(dict[str, list[Statistics]]):
    """The statistics of kernels: for each of their matrices, by the key of the site.

    If there are several groups of passes, they take turns: `pop` passes the data through the model
    again for the next group. After each turn, the model is as before.

    Args:
        model: The model.
        groups: The passes for each group of kernels.
        data: The data.
        verbose: As in `enable`.
        argument: The name of the argument that holds the data, for errors.
        plain: The identities of the layers that compute without adapters.

    Raises:
        ValueError: If the data does not suit the model.
    """

    def __init__(
        self,
        model: keras.layers.Layer,
        groups: list[list[Pass]],
        data: Any,
        verbose: int | str,
        argument: str,
        plain: frozenset[int] = frozenset(),
    ):
        super().__init__()
        if process_count() > 1:
            raise ValueError(
                "Each process would see other data: read it in one process, `save_adapter`, and "
                f"`load_adapter` in all of them. Received: {process_count()} processes"
            )
        self.model, self.groups, self.verbose, self.plain = model, groups, verbose, plain
        self.received = f"{argument}={data!r}"
        with ExitStack() as stack:
            stack.callback(RandomState().restore)  # a loader of PyTorch draws from it
            batches, self.count = data_batches(data, argument)
            self.batches = batches if len(groups) == 1 else list(batches)
            self.observe()

    def pop(self, key: str, *default: Any) -> Any:
        """Return the statistics of a kernel, and forget them."""
        while key not in self and any(
            key == site.key for group in self.groups for each in group for site in each.sites
        ):
            self.observe()
        return super().pop(key, *default)

    def observe(self) -> None:
        """Pass the data through the model for the next group of kernels."""
        passes, mode = self.groups.pop(0), current_mode()
        with ExitStack() as stack:
            stack.callback(RandomState().restore)  # PyTorch draws from it for dropout
            stack.enter_context(in_mode(replace(mode, base=mode.base | self.plain)))
            for each in passes:
                stack.enter_context(each.probing())
            steps = [1.0] * self.count
            progress = stack.enter_context(KernelProgress(steps, self.verbose, "batches"))
            self._run(passes, self.batches, progress if self.count else None)
        for each in passes:
            for need, sites in each.wanted.items():
                for site in sites:
                    new = each.statistics(need, site)
                    before = self.get(site.key, [Statistics()] * len(new))
                    self[site.key] = [
                        one._replace(**{need: value})
                        for one, value in zip(before, new, strict=True)
                    ]

    def _run(
        self, passes: list[Pass], batches: Iterable[Batch], progress: KernelProgress | None
    ) -> None:
        is_empty = True
        for batch in batches:
            is_empty = False
            tensors = as_tensors(self.model, batch)
            for each in passes:
                each.add(tensors)
            if progress is not None:
                progress.step("data")
        if is_empty:
            raise ValueError(
                "The data has no batch. A generator that was read before is empty: make a new one. "
                f"Received: {self.received}"
            )


def statistics_for_starts(
    model: keras.layers.Layer, chosen: Chosen, data: Any, verbose: int | str
) -> Observed | None:
    """Pass data through a model, and return the statistics that methods need.

    If those of all kernels need too much memory at once, groups of kernels take turns. The kernels
    compute without adapters, and all others with their active ones. Afterwards, the model is as
    before.

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
    needing = next((method for _, method in chosen if method.needs), None)
    if needing is not None and data is None:
        example = "(x, y)" if "gradient" in needing.needs else "x"
        raise ValueError(
            f"This start reads data: pass some hundred samples, as in `calibrate={example}`. "
            f"Received: calibrate=None, with {needing}"
        )
    if needing is None:
        if data is not None:
            methods = ", ".join(dict.fromkeys(str(method) for _, method in chosen))
            raise ValueError(
                "No method here reads data before it starts: leave `calibrate` out. "
                f"Received: {methods}"
            )
        return None
    counts = {site.key: method.components for site, method in chosen}
    groups = [
        passes_for(model, _wanted(group), False, counts)
        for group in groups_of(chosen, int(SHARE * free_bytes()))
    ]
    plain = frozenset(id(site.layer) for site, _ in chosen)
    return Observed(model, groups, data, verbose, "calibrate", plain)


def statistics_of(
    model: keras.layers.Layer, wanted: Wanted, data: Any, verbose: int | str, argument: str
) -> Observed:
    """Pass data through a model once, with its active adapters.

    Args:
        model: The model.
        wanted: The kernels of each field of `Statistics`, other than `components`.
        data: The data.
        verbose: As in `enable`.
        argument: The name of the argument that holds the data, for errors.

    Raises:
        ValueError: If the data does not suit the model.
    """
    return Observed(model, [passes_for(model, wanted, True, {})], data, verbose, argument)


def passes_for(
    model: keras.layers.Layer, wanted: Wanted, with_adapters: bool, components: Counts
) -> list[Pass]:
    """Return the passes that find some statistics, as in `Pass`."""
    passes = []
    for kind in PASSES:
        if own := {need: wanted[need] for need in kind.needs if wanted.get(need)}:
            passes.append(kind(model, own, with_adapters, components))
    for each in passes:
        each.check()
    return passes


def groups_of(chosen: Chosen, most: int) -> list[Chosen]:
    """Return groups of kernels whose statistics need no more than a number of bytes at once."""
    groups: list[Chosen] = [[]]
    used = 0
    for site, method in chosen:
        size = sum(PASS_OF[need].bytes_for(need, site) for need in method.needs)
        if used and used + size > most:
            groups.append([])
            used = 0
        used += size
        groups[-1 if size else 0].append((site, method))
    return groups


def _wanted(chosen: Chosen) -> Wanted:
    """Return the kernels of each field of `Statistics` that methods need."""
    wanted: dict[str, list[Site]] = {}
    for site, method in chosen:
        for need in method.needs:
            wanted.setdefault(need, []).append(site)
    return wanted
