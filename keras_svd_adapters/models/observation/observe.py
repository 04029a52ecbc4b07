"""The statistics of data that methods need before they start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import keras

from keras_svd_adapters.adapters.mode import current_mode, in_mode
from keras_svd_adapters.methods.contract import Statistics
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.batches import Batch
from keras_svd_adapters.models.observation.batches import as_tensors, calibration_batches
from keras_svd_adapters.models.observation.passes import PASSES, Pass
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.processes import process_count
from keras_svd_adapters.runtime.progress import KernelProgress

Observed = dict[str, list[Statistics]]  # by the key of a site: for each of its matrices
Chosen = list[tuple[Site, Method]]


def observe(
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
    passes = []
    for kind in PASSES:
        if sites := [site for site, method in chosen if kind.need in method.needs]:
            passes.append(kind(model, sites))
    _check_data(chosen, passes, data)
    if not passes:
        return None
    for each in passes:
        each.check()
    batches, count = calibration_batches(data)
    plain = frozenset(id(site.layer) for site, _ in chosen)
    mode = current_mode()
    with ExitStack() as stack:
        for each in passes:
            stack.enter_context(each.probing())
        stack.enter_context(in_mode(replace(mode, base=mode.base | plain)))
        progress = stack.enter_context(KernelProgress([1.0] * count, verbose, "batches"))
        _run(model, passes, batches, progress if count else None, data)
    found: Observed = {}
    for each in passes:
        for site in each.sites:
            new = each.statistics(site)
            before = found.get(site.key, [Statistics()] * len(new))
            found[site.key] = [
                one._replace(**{each.need: value}) for one, value in zip(before, new, strict=True)
            ]
    return found


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
    batches: Iterator[Batch],
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
