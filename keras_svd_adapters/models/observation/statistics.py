"""The statistics of data: those that methods need before they start, and others on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import keras

from keras_svd_adapters.adapters.mode import current_mode, in_mode
from keras_svd_adapters.methods.contract import Statistics
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.batches import Batch
from keras_svd_adapters.models.observation.batches import as_tensors, data_batches
from keras_svd_adapters.models.observation.forward import ForwardPass
from keras_svd_adapters.models.observation.gradients import FisherPass, GradientPass
from keras_svd_adapters.models.observation.passes import Pass
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.processes import process_count
from keras_svd_adapters.runtime.progress import KernelProgress
from keras_svd_adapters.runtime.random_state import RandomState

Observed = dict[str, list[Statistics]]  # by the key of a site: for each of its matrices
Wanted = Mapping[str, list[Site]]  # by the field of `Statistics`
Chosen = list[tuple[Site, Method]]
PASSES: tuple[type[Pass], ...] = (ForwardPass, GradientPass, FisherPass)
FIELDS = tuple(need for kind in PASSES for need in kind.needs)  # those of `Statistics`


def statistics_for_starts(
    model: keras.layers.Layer, chosen: Chosen, data: Any, verbose: int | str
) -> Observed | None:
    """Pass data through a model once, and return the statistics that methods need.

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
    wanted: dict[str, list[Site]] = {}
    for site, method in chosen:
        for need in method.needs:
            wanted.setdefault(need, []).append(site)
    if wanted and data is None:
        needing = next(method for _, method in chosen if method.needs)
        example = "(x, y)" if "gradient" in needing.needs else "x"
        raise ValueError(
            f"This start reads data: pass some hundred samples, as in `calibrate={example}`. "
            f"Received: calibrate=None, with {needing}"
        )
    if not wanted:
        if data is not None:
            methods = ", ".join(dict.fromkeys(str(method) for _, method in chosen))
            raise ValueError(
                "No method here reads data before it starts: leave `calibrate` out. "
                f"Received: {methods}"
            )
        return None
    plain = frozenset(id(site.layer) for site, _ in chosen)
    mode = current_mode()
    with in_mode(replace(mode, base=mode.base | plain)):
        return statistics_of(model, wanted, data, verbose, "calibrate", with_adapters=False)


def statistics_of(
    model: keras.layers.Layer,
    wanted: Wanted,
    data: Any,
    verbose: int | str,
    argument: str,
    with_adapters: bool,
) -> Observed:
    """Pass data through a model once. Afterwards, the model is as before.

    Args:
        model: The model.
        wanted: The kernels of each field of `Statistics`.
        data: The data.
        verbose: As in `enable`.
        argument: The name of the argument that holds the data, for errors.
        with_adapters: Whether these kernels compute with their active adapters, or without.

    Raises:
        ValueError: If the data does not suit the model.
    """
    if process_count() > 1:
        raise ValueError(
            "Each process would see other data: read it in one process, `save_adapter`, and "
            f"`load_adapter` in all of them. Received: {process_count()} processes"
        )
    passes = []
    for kind in PASSES:
        if own := {need: wanted[need] for need in kind.needs if wanted.get(need)}:
            passes.append(kind(model, own, with_adapters))
    for each in passes:
        each.check()
    with ExitStack() as stack:
        stack.callback(RandomState().restore)  # PyTorch draws from it for dropout and for loaders
        batches, count = data_batches(data, argument)
        for each in passes:
            stack.enter_context(each.probing())
        progress = stack.enter_context(KernelProgress([1.0] * count, verbose, "batches"))
        _run(model, passes, batches, progress if count else None, f"{argument}={data!r}")
    found: Observed = {}
    for each in passes:
        for need, sites in each.wanted.items():
            for site in sites:
                new = each.statistics(need, site)
                before = found.get(site.key, [Statistics()] * len(new))
                found[site.key] = [
                    one._replace(**{need: value}) for one, value in zip(before, new, strict=True)
                ]
    return found


def _run(
    model: keras.layers.Layer,
    passes: Iterable[Pass],
    batches: Iterator[Batch],
    progress: KernelProgress | None,
    received: str,
) -> None:
    is_empty = True
    for batch in batches:
        is_empty = False
        tensors = as_tensors(model, batch)
        for each in passes:
            each.add(tensors)
        if progress is not None:
            progress.step("data")
    if is_empty:
        raise ValueError(
            "The data has no batch. A generator that was read before is empty: make a new one. "
            f"Received: {received}"
        )
